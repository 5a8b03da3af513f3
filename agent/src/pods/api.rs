//! The API server, watched: pods of this node, and what namespaces say. When it is away the table keeps what it knows,
//! and the watches begin again with growing pauses (kube's own, up to about a minute).

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{Namespace, ObjectReference, Pod as ApiPod};
use kube::api::{ObjectMeta, PartialObjectMeta};
use kube::runtime::events::{Event as ApiEvent, EventType, Recorder, Reporter};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch};
use kube::{Api, Client, Config, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::ANNOTATION;
use super::table::{Change, Container, MAX_NAMESPACES, MAX_PODS, Pod};

/// News that may wait for the agent; the watches wait when it is full.
const QUEUE: usize = 256;
/// Warnings that may wait for the API server; further ones are in the log only.
const WARNINGS: usize = 64;
/// How long one warning may take to be taken.
const WARN_WITHIN: Duration = Duration::from_secs(10);
/// Digits of an image's digest that its name has.
const DIGITS: usize = 16;
/// Objects of one page of a list.
const PAGE: u32 = 200;

/// What the watches tell.
#[derive(Debug)]
pub enum News {
    /// Something has changed.
    Change(Change),
    /// The API server answers: pods (true) or namespaces are all known.
    Listed(bool),
    /// It does not, and why, for people.
    Away(String),
}

/// The two watches, and a way to warn people.
pub struct Watched {
    /// What is told.
    pub news: mpsc::Receiver<News>,
    warnings: mpsc::Sender<([String; 3], String)>,
}

impl Watched {
    /// Puts an Event on a pod, by its namespace, name and UID. Never waits.
    pub fn warn(&self, pod: [String; 3], text: String) {
        let _ = self.warnings.try_send((pod, text));
    }
}

/// Begins to watch. Ends with what it returned.
///
/// # Errors
/// Nothing says where the API server is.
pub async fn begin(node: &str) -> Result<Watched> {
    let config = Config::infer().await.context(
        "where the API server is can't be found out: in a pod the service account's token must be mounted \
         (automountServiceAccountToken), elsewhere KUBECONFIG names a file; --pods off does without it",
    )?;
    let client = Client::try_from(config).context("the API server's client can't be made")?;
    let (sender, news) = mpsc::channel(QUEUE);
    let pods = watcher::Config::default().fields(&format!("spec.nodeName={node}")).page_size(PAGE);
    let stream = watch(Api::<ApiPod>::all(client.clone()), pods);
    tokio::spawn(follow(stream, sender.clone(), OfPods::default()));
    let stream = watch(
        Api::<PartialObjectMeta<Namespace>>::all(client.clone()),
        watcher::Config::default().page_size(PAGE),
    );
    tokio::spawn(follow(stream, sender, OfNamespaces::default()));
    let (warnings, receiver) = mpsc::channel(WARNINGS);
    tokio::spawn(publish(client, node.to_owned(), receiver));
    Ok(Watched { news, warnings })
}

/// What becomes of a watch's objects.
trait Kind: Send + 'static {
    type Object: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send;
    const PODS: bool;
    fn begin(&mut self);
    fn list(&mut self, object: Self::Object);
    fn listed(&mut self) -> Change;
    fn there(object: Self::Object) -> Change;
    fn gone(object: Self::Object) -> Option<Change>;
}

async fn follow<K: Kind>(
    stream: impl futures_util::Stream<Item = watcher::Result<Event<K::Object>>> + Send,
    news: mpsc::Sender<News>,
    mut kind: K,
) {
    let mut stream = pin!(stream.default_backoff());
    while let Some(event) = stream.next().await {
        let told = match event {
            Ok(Event::Init) => {
                kind.begin();
                continue;
            }
            Ok(Event::InitApply(object)) => {
                kind.list(object);
                continue;
            }
            Ok(Event::InitDone) => {
                if news.send(News::Change(kind.listed())).await.is_err() {
                    return;
                }
                News::Listed(K::PODS)
            }
            Ok(Event::Apply(object)) => News::Change(K::there(object)),
            Ok(Event::Delete(object)) => match K::gone(object) {
                Some(change) => News::Change(change),
                None => continue,
            },
            Err(error) => News::Away(explained(&error, K::PODS)),
        };
        if news.send(told).await.is_err() {
            return;
        }
    }
}

fn explained(error: &watcher::Error, of_pods: bool) -> String {
    let what = if of_pods { "pods" } else { "namespaces" };
    let status = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => Some(status),
        _ => None,
    };
    match status.map(|status| status.code) {
        Some(401) => {
            "the API server does not know this agent: is its service account's token there and valid?".into()
        }
        Some(403) => format!(
            "the API server does not let this agent list {what}: its service account needs get, list and watch on \
             pods and namespaces (the chart's ClusterRole says so)"
        ),
        _ => {
            let mut text = error.to_string();
            let mut cause = std::error::Error::source(error);
            while let Some(next) = cause {
                let more = next.to_string();
                if !text.contains(&more) {
                    text = format!("{text}: {more}");
                }
                cause = next.source();
            }
            format!("the API server can't be asked for {what}: {text}")
        }
    }
}

#[derive(Default)]
struct OfPods(Vec<Pod>);

impl Kind for OfPods {
    type Object = ApiPod;
    const PODS: bool = true;

    fn begin(&mut self) {
        self.0.clear();
    }

    fn list(&mut self, object: ApiPod) {
        if self.0.len() < MAX_PODS {
            self.0.push(pod(object));
        }
    }

    fn listed(&mut self) -> Change {
        Change::Pods(std::mem::take(&mut self.0))
    }

    fn there(object: ApiPod) -> Change {
        Change::Pod(pod(object))
    }

    fn gone(object: ApiPod) -> Option<Change> {
        object.metadata.uid.map(Change::PodGone)
    }
}

#[derive(Default)]
struct OfNamespaces(BTreeMap<String, Option<String>>);

impl Kind for OfNamespaces {
    type Object = PartialObjectMeta<Namespace>;
    const PODS: bool = false;

    fn begin(&mut self) {
        self.0.clear();
    }

    fn list(&mut self, object: Self::Object) {
        if self.0.len() < MAX_NAMESPACES {
            let redirect = annotation(&object.metadata);
            self.0.insert(object.metadata.name.unwrap_or_default(), redirect);
        }
    }

    fn listed(&mut self) -> Change {
        Change::Namespaces(std::mem::take(&mut self.0))
    }

    fn there(object: Self::Object) -> Change {
        let redirect = annotation(&object.metadata);
        Change::Namespace(object.metadata.name.unwrap_or_default(), redirect)
    }

    fn gone(object: Self::Object) -> Option<Change> {
        object.metadata.name.map(Change::NamespaceGone)
    }
}

fn annotation(metadata: &ObjectMeta) -> Option<String> {
    metadata.annotations.as_ref()?.get(ANNOTATION).cloned()
}

/// What the table keeps of a pod.
fn pod(object: ApiPod) -> Pod {
    let redirect = annotation(&object.metadata);
    let named = |name: &str| object.metadata.annotations.as_ref()?.get(name).cloned();
    let mirror = named("kubernetes.io/config.mirror").and(named("kubernetes.io/config.hash"));
    let metadata = object.metadata;
    let labels = metadata.labels.unwrap_or_default();
    let owners = metadata.owner_references.unwrap_or_default();
    let workloads = owners.into_iter().map(|owner| workload(owner.kind, owner.name, &labels)).collect();
    let mut containers = BTreeMap::new();
    if let Some(status) = object.status {
        let all =
            [status.init_container_statuses, status.container_statuses, status.ephemeral_container_statuses];
        for of in all.into_iter().flatten().flatten() {
            // `containerd://0123…`
            let Some((_, id)) = of.container_id.as_deref().and_then(|id| id.split_once("://")) else {
                continue;
            };
            let image = image(&of.image, &of.image_id);
            containers.insert(id.to_owned(), Container { name: of.name, image });
        }
    }
    Pod {
        uid: metadata.uid.unwrap_or_default(),
        namespace: metadata.namespace.unwrap_or_default(),
        name: metadata.name.unwrap_or_default(),
        labels,
        workloads,
        redirect,
        cgroup_uid: mirror,
        containers,
    }
}

/// `redis:7@0123456789abcdef`: what people know an image by, and of its digest what tells it from others; empty when
/// there is no digest.
fn image(name: &str, id: &str) -> String {
    let Some((_, digest)) = id.rsplit_once("sha256:") else { return String::new() };
    let name = name.split('@').next().unwrap_or_default();
    let name = name.rsplit('/').next().unwrap_or_default();
    let digest: String = digest.chars().filter(char::is_ascii_hexdigit).take(DIGITS).collect();
    if digest.len() < DIGITS { String::new() } else { format!("{name}@{digest}") }
}

/// A Deployment's ReplicaSet has its name and the template's hash.
fn workload(kind: String, name: String, labels: &BTreeMap<String, String>) -> (String, String) {
    if kind == "ReplicaSet"
        && let Some(hash) = labels.get("pod-template-hash")
        && let Some(deployment) = name.strip_suffix(&format!("-{hash}"))
    {
        return ("Deployment".into(), deployment.to_owned());
    }
    (kind, name)
}

async fn publish(client: Client, node: String, mut warnings: mpsc::Receiver<([String; 3], String)>) {
    let recorder =
        Recorder::new(client, Reporter { controller: "patchbay-agent".into(), instance: Some(node) });
    while let Some(([namespace, name, uid], text)) = warnings.recv().await {
        let event = ApiEvent {
            type_: EventType::Warning,
            reason: "BadAnnotation".into(),
            note: Some(text),
            action: "Redirect".into(),
            secondary: None,
        };
        let about = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            namespace: Some(namespace),
            name: Some(name),
            uid: Some(uid),
            ..ObjectReference::default()
        };
        match tokio::time::timeout(WARN_WITHIN, recorder.publish(&event, &about)).await {
            Ok(Ok(())) => debug!(pod = about.name, "an event says so"),
            Ok(Err(error)) => {
                warn!(pod = about.name, "an Event can't be made (events.k8s.io: create, patch): {error}")
            }
            Err(_) => warn!(pod = about.name, "an Event was not taken within {} s", WARN_WITHIN.as_secs()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_read_with_its_containers_images_and_workload() {
        let object: ApiPod = serde_json::from_value(serde_json::json!({
            "metadata": {
                "uid": "u", "namespace": "n", "name": "web-5d8f-x1",
                "labels": {"app": "web", "pod-template-hash": "5d8f"},
                "annotations": {"patchbay.dev/redirect": "always"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d8f", "uid": "r"}]
            },
            "status": {"containerStatuses": [
                {"name": "main", "containerID": "containerd://abc", "image": "docker.io/library/web:1",
                 "imageID": "docker.io/library/web@sha256:0123456789abcdef0123",
                 "ready": true, "restartCount": 0},
                {"name": "waiting", "image": "web:1", "imageID": "", "ready": false, "restartCount": 0}
            ]}
        }))
        .expect("a pod");
        let pod = pod(object);
        assert_eq!(pod.redirect.as_deref(), Some("always"));
        assert_eq!(pod.workloads, [("Deployment".to_owned(), "web".to_owned())]);
        let main = Container { name: "main".into(), image: "web:1@0123456789abcdef".into() };
        assert_eq!(pod.containers, BTreeMap::from([("abc".to_owned(), main)]));
        assert_eq!(pod.cgroup_uid, None);
    }

    #[test]
    fn a_static_pod_is_known_by_its_files_hash() {
        let object: ApiPod =
            serde_json::from_value(serde_json::json!({"metadata": {"uid": "u", "annotations": {
            "kubernetes.io/config.mirror": "h", "kubernetes.io/config.hash": "h"}}}))
            .expect("a pod");
        assert_eq!(pod(object).cgroup_uid.as_deref(), Some("h"));
    }

    #[test]
    fn a_refusal_says_what_is_needed() {
        let status = kube::core::Status { code: 403, ..kube::core::Status::default() };
        let error = watcher::Error::InitialListFailed(kube::Error::Api(Box::new(status)));
        assert!(explained(&error, true).contains("needs get, list and watch"));
    }
}
