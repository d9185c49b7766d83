//! Pod Security "restricted", and what else no pod may lack.
//! <https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted>

use k8s_openapi::api::core::v1::{Container, PodSpec, Volume};

use crate::fixture::{Fixture, directories};

#[test]
fn every_pod_is_restricted() {
    for directory in directories() {
        for pod in pods(&Fixture::read(&directory)) {
            let faults = faults(&pod);
            assert!(faults.is_empty(), "{}: {faults:?}", directory.display());
        }
    }
}

#[test]
fn the_check_finds_what_is_not_restricted() {
    let pod = || pods(&Fixture::read(&directories()[0])).remove(0);
    let changes: [fn(&mut PodSpec); 11] = [
        |pod| pod.host_network = Some(true),
        |pod| pod.host_pid = Some(true),
        |pod| pod.security_context.as_mut().unwrap().run_as_user = Some(0),
        |pod| {
            pod.security_context = None;
            pod.containers[0]
                .security_context
                .as_mut()
                .unwrap()
                .run_as_non_root = None;
        },
        |pod| {
            pod.security_context.as_mut().unwrap().seccomp_profile = None;
            pod.containers[0]
                .security_context
                .as_mut()
                .unwrap()
                .seccomp_profile = None;
        },
        |pod| pod.containers[0].security_context = None,
        |pod| {
            let security = pod.containers[0].security_context.as_mut().unwrap();
            security.capabilities.as_mut().unwrap().drop = None;
        },
        |pod| {
            let security = pod.containers[0].security_context.as_mut().unwrap();
            security.capabilities.as_mut().unwrap().add = Some(vec!["SYS_ADMIN".to_owned()]);
        },
        |pod| {
            let security = pod.containers[0].security_context.as_mut().unwrap();
            security.allow_privilege_escalation = None;
        },
        |pod| pod.containers[0].ports.as_mut().unwrap()[0].host_port = Some(443),
        |pod| {
            pod.volumes.as_mut().unwrap().push(Volume {
                name: "host".to_owned(),
                host_path: Some(k8s_openapi::api::core::v1::HostPathVolumeSource::default()),
                ..Volume::default()
            });
        },
    ];
    assert_eq!(faults(&pod()), [] as [&str; 0]);
    for (index, change) in changes.into_iter().enumerate() {
        let mut pod = pod();
        change(&mut pod);
        assert!(!faults(&pod).is_empty(), "change {index}");
    }
}

#[test]
fn no_pod_can_write_its_image_or_call_kubernetes_and_all_have_probes_and_requests() {
    for directory in directories() {
        for pod in pods(&Fixture::read(&directory)) {
            assert_eq!(pod.automount_service_account_token, Some(false));
            for container in &pod.containers {
                let security = container.security_context.as_ref().unwrap();
                assert_eq!(security.read_only_root_filesystem, Some(true));
                let resources = container.resources.as_ref().unwrap();
                assert!(resources.requests.is_some());
                assert!(!resources.limits.as_ref().unwrap().contains_key("cpu"));
                for probe in [
                    &container.startup_probe,
                    &container.liveness_probe,
                    &container.readiness_probe,
                ] {
                    let get = probe.as_ref().unwrap().http_get.as_ref().unwrap();
                    assert!(get.path.as_deref().unwrap().ends_with('z'));
                }
                for mount in container.volume_mounts.as_ref().unwrap() {
                    assert_eq!(mount.sub_path, None, "is never renewed");
                }
            }
        }
    }
}

/// Controls alone, where they are told to check ServiceAccounts' tokens.
#[test]
fn a_pod_has_a_token_of_its_own_where_it_calls_the_api_server() {
    for directory in directories() {
        for pod in pods(&Fixture::read(&directory)) {
            let volumes = pod.volumes.iter().flatten();
            let sources = volumes.filter_map(|volume| volume.projected.as_ref()?.sources.as_ref());
            let mut sources = sources.flatten();
            let token = sources.any(|source| source.service_account_token.is_some());
            let calls = directory.ends_with("api-access") && pod.containers[0].name == "control";
            assert_eq!(token, calls, "{}", directory.display());
        }
    }
}

fn pods(fixture: &Fixture) -> Vec<PodSpec> {
    let objects = fixture.objects();
    let templates = [
        objects.origin.spec.unwrap().template,
        objects.control.spec.unwrap().template,
        objects.edge.spec.unwrap().template,
    ];
    templates.map(|template| template.spec.unwrap()).into()
}

/// What "restricted" forbids of a pod of ours: what we never set is a fault where it is set.
fn faults(pod: &PodSpec) -> Vec<&'static str> {
    let mut faults = Vec::new();
    let mut require = |met: bool, fault| {
        if !met {
            faults.push(fault);
        }
    };
    let host = [pod.host_network, pod.host_pid, pod.host_ipc];
    require(!host.contains(&Some(true)), "host namespaces");
    require(
        pod.init_containers.is_none() && pod.ephemeral_containers.is_none(),
        "other containers",
    );
    require(
        pod.volumes.iter().flatten().all(is_allowed),
        "kind of volume",
    );
    let security = pod.security_context.clone().unwrap_or_default();
    require(security.run_as_user != Some(0), "root");
    require(
        security.sysctls.is_none() && security.windows_options.is_none(),
        "sysctls, Windows",
    );
    require(security.app_armor_profile.is_none(), "AppArmor");
    require(security.se_linux_options.is_none(), "SELinux");
    for container in &pod.containers {
        let own = container.security_context.clone().unwrap_or_default();
        require(
            own.run_as_non_root.or(security.run_as_non_root) == Some(true),
            "runAsNonRoot",
        );
        require(own.run_as_user != Some(0), "root");
        require(own.allow_privilege_escalation == Some(false), "escalation");
        require(own.privileged != Some(true), "privileged");
        require(own.proc_mount.is_none(), "procMount");
        let seccomp = own
            .seccomp_profile
            .or_else(|| security.seccomp_profile.clone());
        require(
            seccomp.is_some_and(|profile| profile.type_ == "RuntimeDefault"),
            "seccomp",
        );
        let capabilities = own.capabilities.unwrap_or_default();
        let dropped = capabilities.drop.unwrap_or_default();
        require(
            dropped.iter().any(|dropped| dropped == "ALL"),
            "capabilities",
        );
        require(capabilities.add.is_none(), "added capabilities");
        require(no_host_ports(container), "host ports");
    }
    faults
}

fn no_host_ports(container: &Container) -> bool {
    let mut ports = container.ports.iter().flatten();
    ports.all(|port| port.host_port.is_none())
}

fn is_allowed(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.csi.is_some()
        || volume.downward_api.is_some()
        || volume.empty_dir.is_some()
        || volume.ephemeral.is_some()
        || volume.persistent_volume_claim.is_some()
        || volume.projected.is_some()
        || volume.secret.is_some()
}
