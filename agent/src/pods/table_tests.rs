use proptest::prelude::*;

use super::*;

fn pod(number: u8, redirect: Option<&str>) -> Pod {
    Pod {
        uid: format!("uid-{number}"),
        namespace: format!("ns-{}", number % 2),
        name: format!("pod-{number}"),
        redirect: redirect.map(str::to_owned),
        containers: BTreeMap::from([(
            format!("container-{number}"),
            Container { name: "main".into(), image: "sha256:1".into() },
        )]),
        ..Pod::default()
    }
}

fn place(number: u8) -> Place {
    Place { pod: format!("uid-{number}"), container: Some(format!("container-{number}")) }
}

#[test]
fn a_pods_word_goes_before_its_namespaces_and_that_before_the_usual() {
    let mut table = PodTable::new(Redirect::Never);
    assert_eq!(table.apply(Change::Cgroups(BTreeMap::from([(7, place(1))]))), [], "nobody's yet");
    assert_eq!(table.apply(Change::Pod(pod(1, None))), [Effect::Treat(7, Redirect::Never)]);
    let namespace = Change::Namespace("ns-1".into(), Some("auto".into()));
    assert_eq!(table.apply(namespace), [Effect::Treat(7, Redirect::Auto)]);
    assert_eq!(table.apply(Change::Pod(pod(1, Some("always")))), [Effect::Treat(7, Redirect::Always)]);
    assert_eq!(table.counts(), (1, 1));
    assert_eq!(table.image(7), Some("sha256:1"));
    assert_eq!(table.apply(Change::NamespaceGone("ns-1".into())), []);
    assert_eq!(table.apply(Change::Pod(pod(1, None))), [Effect::Treat(7, Redirect::Never)]);
    assert_eq!(table.apply(Change::Cgroups(BTreeMap::new())), [Effect::Forget(7)]);
    assert_eq!(table.of(7), None, "whatever has the number next is somebody else's");
}

#[test]
fn an_annotation_that_says_nothing_known_is_told_once_and_keeps_its_pod_on_tcp() {
    let mut table = PodTable::new(Redirect::Auto);
    table.apply(Change::Cgroups(BTreeMap::from([(7, place(1))])));
    let effects = table.apply(Change::Pod(pod(1, Some("yes\n"))));
    let [Effect::Treat(7, Redirect::Never), Effect::Warn(name, text)] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(name[1], "pod-1");
    assert!(text.contains("`yes` is none of auto, always and never"), "{text}");
    assert_eq!(table.apply(Change::Pod(pod(1, Some("yes\n")))), []);
    assert_eq!(table.apply(Change::Pod(pod(1, None))), [Effect::Treat(7, Redirect::Auto)]);
}

#[test]
fn a_static_pod_is_found_by_the_hash_that_its_cgroup_is_named_by() {
    let mut table = PodTable::new(Redirect::Auto);
    let mut fixed = pod(1, None);
    fixed.cgroup_uid = Some("hash".into());
    table.apply(Change::Pods(vec![fixed]));
    let cgroup = Place { pod: "hash".into(), container: None };
    assert_eq!(
        table.apply(Change::Cgroups(BTreeMap::from([(9, cgroup)]))),
        [Effect::Treat(9, Redirect::Auto)]
    );
    assert_eq!(table.apply(Change::PodGone("uid-1".into())), [Effect::Forget(9)]);
}

fn word() -> impl Strategy<Value = Option<String>> {
    prop_oneof![
        3 => Just(None),
        1 => Just(Some("auto".to_owned())),
        1 => Just(Some("always".to_owned())),
        1 => Just(Some("never".to_owned())),
        1 => Just(Some("nonsense".to_owned())),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    let a_pod = || (0..6_u8, word()).prop_map(|(number, word)| pod(number, word.as_deref()));
    let cgroups = prop::collection::btree_map(0..8_u64, (0..6_u8).prop_map(place), 0..8);
    let namespace = || (0..2_u8).prop_map(|number| format!("ns-{number}"));
    prop_oneof![
        a_pod().prop_map(Change::Pod),
        (0..6_u8).prop_map(|number| Change::PodGone(format!("uid-{number}"))),
        prop::collection::vec(a_pod(), 0..4).prop_map(Change::Pods),
        (namespace(), word()).prop_map(|(name, word)| Change::Namespace(name, word)),
        namespace().prop_map(Change::NamespaceGone),
        prop::collection::btree_map(namespace(), word(), 0..2).prop_map(Change::Namespaces),
        cgroups.prop_map(Change::Cgroups),
    ]
}

proptest! {
    /// Whatever comes in whatever order: what was told adds up to what holds, and nothing is told twice.
    #[test]
    fn effects_add_up_to_what_holds(changes in prop::collection::vec(change(), 0..40)) {
        let mut table = PodTable::new(Redirect::Auto);
        let mut kernel: BTreeMap<u64, Redirect> = BTreeMap::new();
        for change in changes {
            for effect in table.apply(change) {
                match effect {
                    Effect::Treat(cgroup, redirect) => {
                        prop_assert_ne!(kernel.insert(cgroup, redirect), Some(redirect), "told twice");
                    }
                    Effect::Forget(cgroup) => prop_assert!(kernel.remove(&cgroup).is_some(), "never told"),
                    Effect::Warn(..) => {}
                }
            }
            for cgroup in 0..8 {
                let holds = table.of(cgroup).map(|(pod, _)| table.redirect(pod).unwrap_or(Redirect::Never));
                prop_assert_eq!(kernel.get(&cgroup).copied(), holds, "cgroup {}", cgroup);
            }
        }
    }
}
