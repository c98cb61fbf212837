//! Beside Docker, whose rules drop what is forwarded and no rule of them accepts.

use crate::setup::{Plane, findings, one_in_each, shell, start, until_met};
use anyhow::Context as _;
use mesh_integration::{BOUND, HostMesh, until, whoami_from};
use std::{net::SocketAddr, time::Duration};

/// The filter that Docker lays, by the program and with the names it has there; IPv6's since Docker 27.
const DOCKER: &str = "for iptables in iptables ip6tables; do\n\
    $iptables -N DOCKER\n $iptables -N DOCKER-USER\n $iptables -A DOCKER-USER -j RETURN\n\
    $iptables -P FORWARD DROP\n $iptables -A FORWARD -j DOCKER-USER\n $iptables -A FORWARD -o docker0 -j DOCKER\n\
    $iptables -A FORWARD -i docker0 ! -o docker0 -j ACCEPT\n done";
/// How long is waited for what must not come.
const NEVER: Duration = Duration::from_secs(1);

/// What `doctor` says is to be typed on a node.
fn fixes(mesh: &HostMesh, i: u8) -> anyhow::Result<Vec<String>> {
    let found = findings(mesh, i, "forward-policy")?;
    let ours = found.iter().filter(|finding| finding["level"] == "fail");
    ours.map(|finding| Ok(finding["fix"].as_str().context("a fix")?.to_owned())).collect()
}

/// A client outside, through the node that has no container: nothing comes once Docker is there, and everything when the
/// commands of `doctor` were typed.
pub(crate) async fn what_docker_drops_is_let_through_by_the_commands_of_doctor(plane: &Plane) {
    let (mut mesh, containers) = start(plane).await;
    let service = one_in_each(&mut mesh, &containers, "tcp", "8080:8000", 8000);
    mesh.write_service_file("whoami.yaml", &format!("services:\n{service}")).unwrap();
    let ways: Vec<SocketAddr> = mesh.lab.address(3).map(|address| (address, 8080).into()).into();
    for at in &ways {
        until_met(&mesh, *at, &["whoami-1", "whoami-2"]).await;
    }
    for i in 1..=3 {
        assert_eq!(fixes(&mesh, i).unwrap(), Vec::<String>::new());
        shell(mesh.lab.node(i), DOCKER);
    }
    for at in &ways {
        let own = mesh.lab.client_address(0)[usize::from(at.is_ipv6())];
        let client = mesh.lab.client.clone();
        let met = tokio::time::timeout(NEVER, async { client.within(whoami_from(own, *at)).await }).await;
        assert!(!matches!(met, Ok(Ok(Ok(_)))), "{at} answers in spite of the policy: {met:?}");
    }
    for i in 1..=3 {
        let found = until("doctor has a fix for each family", BOUND, || async {
            let found = fixes(&mesh, i)?;
            anyhow::ensure!(found.len() == 2, "{found:?}");
            anyhow::Ok(found)
        });
        for fix in found.await {
            shell(mesh.lab.node(i), &fix);
        }
        assert_eq!(fixes(&mesh, i).unwrap(), Vec::<String>::new());
    }
    for at in &ways {
        until_met(&mesh, *at, &["whoami-1", "whoami-2"]).await;
    }
}
