//! What becomes of pods without nodes: a scheduler and kubelets that only tell the API server what real ones would.
//! Pods get a node, become ready after a while, and go a while after they were deleted.

use std::{
    cell::Cell, collections::HashSet, net::Ipv4Addr, rc::Rc, thread::JoinHandle, time::Duration,
};

use k8s_openapi::{
    api::core::v1::{Node, Pod},
    jiff::Timestamp,
};
use kube::{
    Api, Client, Error, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event},
    },
};
use serde_json::{Value, json};
use tokio::{
    sync::{Semaphore, oneshot},
    task::{LocalSet, spawn_local},
};
use tokio_stream::StreamExt as _;

use super::{ControlPlane, path_of};

/// Who the API server says this is.
pub const USER: &str = "fake-kubelets";

/// Nodes, spread over as many zones.
const NODES: u32 = 3;
/// Calls at a time: hundreds of pods come at once.
const CALLS_MAX: usize = 16;
/// Until a call that failed is made again: the API server may be away.
const CALL_AGAIN: Duration = Duration::from_millis(200);
/// Pods' addresses, one after the other.
const ADDRESSES: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);

/// What becomes of one pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// From its creation until it is ready; `None`: it stays pending on its node.
    pub ready_after: Option<Duration>,
    /// From its deletion until it is gone: how long its process takes to end.
    pub gone_after: Duration,
}

impl Default for Life {
    fn default() -> Self {
        Self {
            ready_after: Some(Duration::from_millis(200)),
            gone_after: Duration::from_millis(200),
        }
    }
}

/// Lets pods live until dropped. A pod is looked at when it appears and when it is deleted: what a test writes into its
/// status meanwhile stays.
pub struct FakeKubelets {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl FakeKubelets {
    /// For the pods of one namespace. `life` is asked once when a pod appears and once when it is deleted.
    pub async fn start(
        plane: &ControlPlane,
        namespace: &str,
        life: impl Fn(&Pod) -> Life + Send + 'static,
    ) -> Self {
        let kubeconfig = plane.kubeconfig_as(USER);
        make_nodes(&super::client(&kubeconfig).await).await;
        let (stop, stopped) = oneshot::channel();
        let namespace = namespace.to_owned();
        // On a thread of its own: a test may wait for a program without letting others work.
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(LocalSet::new().run_until(async {
                let client = super::client(&kubeconfig).await;
                let kubelets = Kubelets {
                    pods: Api::namespaced(client, &namespace),
                    life: Box::new(life),
                    calls: Semaphore::new(CALLS_MAX),
                    pods_started: Cell::new(0),
                };
                tokio::select! {
                    () = Rc::new(kubelets).run() => {}
                    // Dropped without a word where the test failed.
                    _ = stopped => {}
                }
            }));
        });
        Self {
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Drop for FakeKubelets {
    fn drop(&mut self) {
        self.stop.take();
        let ended = self.thread.take().map(JoinHandle::join);
        // A second panic would end the program without a report.
        if !std::thread::panicking() {
            ended.expect("stopped once").expect("kubelets do not fail");
        }
    }
}

struct Kubelets {
    pods: Api<Pod>,
    life: Box<dyn Fn(&Pod) -> Life>,
    calls: Semaphore,
    pods_started: Cell<u32>,
}

impl Kubelets {
    async fn run(self: Rc<Self>) {
        let events = watcher::watcher(self.pods.clone(), watcher::Config::default());
        let mut events = std::pin::pin!(events.default_backoff());
        // Uids of pods that are being started or stopped, or were.
        let mut starting = HashSet::new();
        let mut stopping = HashSet::new();
        while let Some(event) = events.next().await {
            let pod = match event {
                Ok(Event::Apply(pod) | Event::InitApply(pod)) => pod,
                Ok(Event::Delete(pod)) => {
                    let uid = pod.uid().unwrap_or_default();
                    starting.remove(&uid);
                    stopping.remove(&uid);
                    continue;
                }
                Ok(Event::Init | Event::InitDone) => continue,
                // The API server is away; the watcher tries again.
                Err(_) => continue,
            };
            let uid = pod.uid().unwrap_or_default();
            let this = Rc::clone(&self);
            if pod.metadata.deletion_timestamp.is_some() {
                if stopping.insert(uid) {
                    spawn_local(async move { this.stop(&pod).await });
                }
            } else if starting.insert(uid) {
                spawn_local(async move { this.start(&pod).await });
            }
        }
    }

    async fn start(&self, pod: &Pod) {
        let index = self.pods_started.replace(self.pods_started.get() + 1);
        let name = pod.name_any();
        if pod
            .spec
            .as_ref()
            .is_none_or(|spec| spec.node_name.is_none())
        {
            let binding = json!({
                "apiVersion": "v1",
                "kind": "Binding",
                "metadata": { "name": name, "uid": pod.uid() },
                "target": { "kind": "Node", "name": node_name(index % NODES) },
            });
            let params = PostParams::default();
            self.call(pod, async || {
                let pods = &self.pods;
                let made = pods.create_subresource("binding", &name, &params, &binding);
                made.await.map(|_: Value| ())
            })
            .await;
        }
        let Some(ready_after) = (self.life)(pod).ready_after else {
            return;
        };
        tokio::time::sleep(ready_after).await;
        let status = Patch::Merge(running(pod, index));
        let params = PatchParams::default();
        self.call(pod, async || {
            let patched = self.pods.patch_status(&name, &params, &status).await;
            patched.map(|_| ())
        })
        .await;
    }

    async fn stop(&self, pod: &Pod) {
        tokio::time::sleep((self.life)(pod).gone_after).await;
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: pod.uid(),
                ..Preconditions::default()
            }),
            ..DeleteParams::default()
        };
        self.call(pod, async || {
            let deleted = self.pods.delete(&pod.name_any(), &params).await;
            deleted.map(|_| ())
        })
        .await;
    }

    /// Makes a call until it is answered. That the pod is gone, or another of its name came, ends its story.
    async fn call(&self, pod: &Pod, call: impl AsyncFn() -> Result<(), Error>) {
        loop {
            let answer = {
                let _permit = self.calls.acquire().await.unwrap();
                call().await
            };
            match answer {
                Ok(()) => return,
                Err(Error::Api(status)) if matches!(status.code, 404 | 409) => return,
                Err(Error::Api(status))
                    if (400..500).contains(&status.code) && status.code != 429 =>
                {
                    panic!("{}: {status:?}", path_of(pod));
                }
                Err(_) => tokio::time::sleep(CALL_AGAIN).await,
            }
        }
    }
}

/// The status of a pod whose containers all run and are ready.
fn running(pod: &Pod, index: u32) -> Value {
    let now = Timestamp::now().to_string();
    let conditions = ["PodScheduled", "Initialized", "ContainersReady", "Ready"]
        .map(|kind| json!({ "type": kind, "status": "True", "lastTransitionTime": now }));
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let containers = containers.map(|container| {
        json!({
            "name": container.name,
            "image": container.image,
            "imageID": container.image,
            "ready": true,
            "started": true,
            "restartCount": 0,
            "state": { "running": { "startedAt": now } },
        })
    });
    let address = Ipv4Addr::from_bits(ADDRESSES.to_bits() + index).to_string();
    json!({
        "metadata": { "uid": pod.uid() },
        "status": {
            "phase": "Running",
            "startTime": now,
            "hostIP": node_address(index % NODES),
            "podIP": address,
            "podIPs": [{ "ip": address }],
            "conditions": conditions,
            "containerStatuses": containers.collect::<Vec<_>>(),
        },
    })
}

async fn make_nodes(client: &Client) {
    let nodes: Api<Node> = Api::all(client.clone());
    let params = PatchParams::apply(USER).force();
    for index in 0..NODES {
        let name = node_name(index);
        let mut node = json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": name,
                "labels": {
                    "kubernetes.io/hostname": name,
                    "kubernetes.io/os": "linux",
                    "topology.kubernetes.io/zone": format!("zone-{index}"),
                },
            },
        });
        nodes
            .patch(&name, &params, &Patch::Apply(&node))
            .await
            .unwrap();
        let room = json!({ "cpu": "64", "memory": "256Gi", "pods": "1000" });
        node["status"] = json!({
            "capacity": room,
            "allocatable": room,
            "addresses": [{ "type": "InternalIP", "address": node_address(index) }],
            "conditions": [{
                "type": "Ready",
                "status": "True",
                "reason": "KubeletReady",
                "message": "",
                "lastHeartbeatTime": Timestamp::now().to_string(),
                "lastTransitionTime": Timestamp::now().to_string(),
            }],
        });
        nodes
            .patch_status(&name, &params, &Patch::Apply(&node))
            .await
            .unwrap();
    }
}

fn node_name(index: u32) -> String {
    format!("node-{index}")
}

fn node_address(index: u32) -> String {
    format!("10.0.0.{}", index + 1)
}
