//! An application of as many instances as are wanted: half of them ask for sessions with the other half.

/// Replicas of one service at most.
const REPLICAS: usize = 1_000;

/// The graph.
pub struct Load {
    /// The graph file.
    pub text: String,
    /// The services that every agent can execute.
    pub services: String,
    /// Instances that the Manager starts when it is applied.
    pub instances: u64,
}

/// About so many instances, an even number of them and a gateway.
pub fn load(instances: usize) -> Load {
    let pairs = (instances / 2).div_ceil(REPLICAS).max(1);
    let replicas = instances / 2 / pairs;
    let mut gateway = "app = \"load\"\n[service.gate]\nkind = \"gateway\"\nsockets.users = { protocol = \"p\", port = 8080 }\n".to_owned();
    let (mut others, mut names) = (String::new(), vec!["gate".to_owned()]);
    let bounds = format!("replicas = {{ min = {replicas}, max = {replicas} }}");
    for pair in 0..pairs {
        gateway += &format!("plugs.p{pair} = {{ protocol = \"p\" }}\n");
        others += &format!(
            "[service.a{pair}]\nkind = \"regular\"\nsockets.s = {{ protocol = \"p\" }}\nplugs.out = {{ protocol = \"p\" }}\n{bounds}\n\
             [service.b{pair}]\nkind = \"baas\"\nstate = \"shared\"\nsockets.s = {{ protocol = \"p\" }}\n{bounds}\n\
             [[connection]]\nfrom = \"gate.p{pair}\"\nto = \"a{pair}.s\"\n\
             [[connection]]\nfrom = \"a{pair}.out\"\nto = \"b{pair}.s\"\n"
        );
        names.extend([format!("a{pair}"), format!("b{pair}")]);
    }
    let instances = (replicas * pairs * 2 + 1) as u64;
    Load { text: gateway + &others, services: names.join(", "), instances }
}
