//! Ports that are published on the addresses of a link.

use crate::setup::{Plane, findings, ip, one_in_each, start, until_met};
use anyhow::ensure;
use mesh_integration::{BOUND, until, whoami_from};
use serde_json::json;
use std::net::{IpAddr, SocketAddr};

/// Another address of a host's network.
fn beside(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            [a, b, c, 100].into()
        }
        IpAddr::V6(address) => {
            let mut segments = address.segments();
            segments[7] = 100;
            segments.into()
        }
    }
}

/// An address that comes to the link is open, without a restart; one that another link has is not, nor any more when it
/// moves there.
pub(crate) async fn ports_follow_the_addresses_of_a_link(plane: &Plane) {
    let config = format!("{}publish: {{interfaces: [eth0]}}\n", plane.config);
    let (mut mesh, containers) = start(&Plane { config: config.leak(), ..*plane }).await;
    let service = one_in_each(&mut mesh, &containers, "tcp", "8080:8000", 8000);
    mesh.write_service_file("whoami.yaml", &format!("services:\n{service}")).unwrap();
    let node = mesh.lab.node(3).clone();
    ip(&node, "link add other type bridge");
    ip(&node, "link set other up");
    let told = findings(&mesh, 3, "publish").unwrap();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((&told[0]["level"], &told[0]["found"]), (&json!("ok"), &json!("on the addresses of eth0")));
    for address in mesh.lab.address(3).into_iter().take(containers[0].addresses.len()) {
        let own = mesh.lab.client_address(0)[usize::from(address.is_ipv6())];
        let (bits, new) = (if address.is_ipv4() { 24 } else { 64 }, beside(address));
        let at = SocketAddr::new(new, 8080);
        until_met(&mesh, (address, 8080).into(), &["whoami-1", "whoami-2"]).await;
        ip(&node, &format!("addr add {new}/{bits} dev eth0 nodad"));
        until_met(&mesh, at, &["whoami-1", "whoami-2"]).await;
        ip(&node, &format!("addr del {new}/{bits} dev eth0"));
        ip(&node, &format!("addr add {new} dev other nodad"));
        until(&format!("{at} is closed"), BOUND, || async {
            let met = mesh.lab.client.within(whoami_from(own, at)).await?;
            let refused = met.as_ref().is_err_and(|error| format!("{error:#}").contains("refused"));
            ensure!(refused, "{met:?}");
            anyhow::Ok(())
        })
        .await;
        until_met(&mesh, (address, 8080).into(), &["whoami-1", "whoami-2"]).await;
    }
}
