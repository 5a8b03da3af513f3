//! The social application on two nodes, and users who never stop asking.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use patchbay_testbed::{Cluster, Party, Plan};
use serde_json::{Value, json};
use ureq::Agent;

/// How long anything may take to come true.
pub const WITHIN: Duration = Duration::from_secs(30);
/// Users at the same time.
const USERS: u64 = 3;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Status and body, or how it failed.
pub type Answer = Result<(u16, String), String>;

/// The application on nodes `a` and `b`. Files and Redis live on `b`, the rest can run on both.
pub struct Social {
    /// The nodes.
    pub cluster: Cluster,
    folder: PathBuf,
}

/// Node `a`.
pub const A: usize = 0;
/// Node `b`.
pub const B: usize = 1;

impl Social {
    /// Starts it, with short times, so that what is lost is given up soon.
    #[must_use]
    pub fn start(agent_flags: &[&str]) -> Self {
        let social = Self::nodes(agent_flags);
        social.apply();
        social
    }

    /// Starts the nodes only.
    #[must_use]
    pub fn nodes(agent_flags: &[&str]) -> Self {
        let name = format!("pbs{}-{}", std::process::id() % 100_000, NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(&name);
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let all = include_str!("../examples/social/repository.toml");
        // The next version of a service, for those who replace it.
        let posts = all.split("\n\n").find(|entry| entry.contains("[service.posts]")).expect("an entry");
        let all = format!("{all}\n\n{}\n", posts.replace("[service.posts]", "[service.posts-2]"));
        let stateless: Vec<&str> = all
            .split("\n\n")
            .filter(|entry| !["[service.redis]", "[service.file-store]"].iter().any(|s| entry.contains(s)))
            .collect();
        let cluster = Cluster::start(Plan {
            name,
            folder: folder.clone(),
            programs: here.join("../target/release"),
            nodes: vec![("a".into(), stateless.join("\n\n")), ("b".into(), all.clone())],
            manager_flags: ["--health-interval=1", "--agent-grace=10"].map(str::to_owned).to_vec(),
            agent_flags: agent_flags.iter().map(ToString::to_string).collect(),
        });
        Self { cluster: cluster.expect("the programs are built: cargo xtask test"), folder }
    }

    /// Applies the application and waits for its gateway.
    pub fn apply(&self) {
        self.apply_changed(str::to_owned);
    }

    /// Applies a changed graph.
    pub fn apply_changed(&self, change: impl FnOnce(&str) -> String) {
        let graph = include_str!("../examples/social/social.toml");
        let file = self.folder.join("social.toml");
        fs::write(&file, change(graph)).expect("written");
        self.cluster.patchbay(&["apply", &file.display().to_string()]).expect("applied");
        self.wait("the gateway runs", |cluster| !cluster.running("gateway").is_empty());
    }

    /// Waits until something is true.
    pub fn wait(&self, what: &str, is_true: impl Fn(&Cluster) -> bool) {
        self.cluster.wait(what, WITHIN, is_true).unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// A running instance of a service.
    #[must_use]
    pub fn running(&self, service: &str) -> patchbay_api::Instance {
        self.wait(&format!("{service} runs"), |cluster| !cluster.running(service).is_empty());
        self.cluster.running(service).swap_remove(0)
    }

    /// The party that a running instance of a service is.
    #[must_use]
    pub fn instance(&self, service: &str) -> Party {
        Party::from(&self.running(service))
    }

    /// Where gateways can be, the running one first.
    #[must_use]
    pub fn gateways(&self) -> Vec<String> {
        let gateways = self.cluster.running("gateway");
        let gateway = gateways.first().expect("the gateway runs");
        let nodes = if gateway.node == "b" { [B, A] } else { [A, B] };
        nodes.map(|node| format!("http://{}:8080", Plan::address(node))).to_vec()
    }

    /// One request by a user of its own; status and body.
    ///
    /// # Errors
    /// No answer.
    pub fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        self.begin_to_ask(method, path, body).join().expect("no panic")
    }

    /// Begins a request by a user of its own.
    #[must_use]
    pub fn begin_to_ask(&self, method: &str, path: &str, body: Option<Value>) -> JoinHandle<Answer> {
        let (plan, gateways) = (self.cluster.plan().clone(), self.gateways());
        let (method, path) = (method.to_owned(), path.to_owned());
        std::thread::spawn(move || {
            plan.enter_hub().map_err(|error| format!("{error:#}"))?;
            let user = User::new(gateways, "asker");
            user.request(&method, &path, None, body.as_ref())
        })
    }

    /// Users who ask without a pause until they are told to stop.
    #[must_use]
    pub fn load(&self) -> Load {
        let (stop, ok) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let failures = Arc::new(Mutex::new(Vec::new()));
        let (plan, gateways) = (self.cluster.plan().clone(), self.gateways());
        let users = (0..USERS).map(|number| {
            let (stop, ok, failures) = (stop.clone(), ok.clone(), failures.clone());
            let (plan, gateways) = (plan.clone(), gateways.clone());
            std::thread::spawn(move || {
                plan.enter_hub().expect("the hub is there");
                let name = format!("user-{}-{number}", NEXT.fetch_add(1, Ordering::Relaxed));
                let user = User::new(gateways, &name);
                let note = |what: &str, result: Result<(u16, String), String>| match result {
                    Ok((200..300, _)) => drop(ok.fetch_add(1, Ordering::Relaxed)),
                    failed => failures.lock().expect("no panic").push(format!("{what}: {failed:?}")),
                };
                let token = user.join();
                note("join", token.clone().map(|_| (200, String::new())));
                let token = token.unwrap_or_default();
                let mut posts = 0;
                while !stop.load(Ordering::Relaxed) {
                    let text = json!({ "text": format!("post {posts}") });
                    note("post", user.request("POST", "/posts", Some(&token), Some(&text)));
                    note("table", user.request("GET", "/table", None, None));
                    posts += 1;
                }
            })
        });
        let users = users.collect();
        Load { stop, ok, failures, users }
    }

    /// What the Manager believes is what runs: every instance once, every port once, every open session
    /// between two instances that run.
    pub fn assert_consistent(&self) {
        self.wait("what is believed is what runs", |cluster| cluster.difference().is_none());
    }
}

impl Drop for Social {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = self.cluster.plan().clean();
            let _ = fs::remove_dir_all(&self.folder);
        } else {
            eprintln!("logs are kept in {}", self.folder.display());
        }
    }
}

/// A user with a connection that is kept.
struct User {
    agent: Agent,
    gateways: Vec<String>,
    /// The gateway that answered last.
    good: AtomicUsize,
    name: String,
}

impl User {
    fn new(gateways: Vec<String>, name: &str) -> Self {
        let config =
            Agent::config_builder().timeout_global(Some(Duration::from_secs(60))).http_status_as_error(false);
        Self { agent: config.build().into(), gateways, good: AtomicUsize::new(0), name: name.into() }
    }

    /// Asks the gateway that answered last; where nobody listens, the next one, as with several addresses
    /// of one name.
    fn request(&self, method: &str, path: &str, token: Option<&str>, body: Option<&Value>) -> Answer {
        let mut left = 2 * self.gateways.len();
        loop {
            left -= 1;
            match self.request_once(method, path, token, body) {
                Err(error) if left > 0 && error.contains("refused") => {
                    let next = (self.good.load(Ordering::Relaxed) + 1) % self.gateways.len();
                    self.good.store(next, Ordering::Relaxed);
                }
                answer => return answer,
            }
        }
    }

    fn request_once(&self, method: &str, path: &str, token: Option<&str>, body: Option<&Value>) -> Answer {
        let gateway = &self.gateways[self.good.load(Ordering::Relaxed)];
        let mut request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{gateway}{path}"))
            .header("content-type", "application/json");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let text = body.map(Value::to_string).unwrap_or_default();
        let request = request.body(text).map_err(|error| error.to_string())?;
        let mut response = self.agent.run(request).map_err(|error| error.to_string())?;
        let text = response.body_mut().read_to_string().map_err(|error| error.to_string())?;
        Ok((response.status().as_u16(), text))
    }

    /// Registers and logs in.
    fn join(&self) -> Result<String, String> {
        let account = json!({ "user": self.name, "password": "correct horse" });
        self.request("POST", "/register", None, Some(&account))?;
        let (_, text) = self.request("POST", "/login", None, Some(&account))?;
        let answer: Value = serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
        answer["token"].as_str().map(str::to_owned).ok_or(text)
    }
}

/// Users at work.
pub struct Load {
    stop: Arc<AtomicBool>,
    ok: Arc<AtomicU64>,
    failures: Arc<Mutex<Vec<String>>>,
    users: Vec<JoinHandle<()>>,
}

impl Load {
    /// Requests that were answered as they should be.
    #[must_use]
    pub fn ok(&self) -> u64 {
        self.ok.load(Ordering::Relaxed)
    }

    /// Waits until so many more requests have been answered.
    pub fn wait_for(&self, more: u64) {
        let (begun, wanted) = (Instant::now(), self.ok() + more);
        while self.ok() < wanted {
            assert!(begun.elapsed() < WITHIN, "requests stay unanswered: {:?}", self.failures());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What went wrong so far.
    #[must_use]
    pub fn failures(&self) -> Vec<String> {
        self.failures.lock().expect("no panic").clone()
    }

    /// Ends the users; returns how many requests were right, and what went wrong.
    #[must_use]
    pub fn end(self) -> (u64, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        for user in self.users {
            user.join().expect("no panic");
        }
        (self.ok.load(Ordering::Relaxed), self.failures.lock().expect("no panic").clone())
    }
}
