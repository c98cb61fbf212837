//! The flows that a CPU has at hand, when there are more than it has lines for.

use crate::{
    bed::{Bed, Device, Outcome},
    packet::{ACK, Packet, SYN, tcp},
    plan::{Plan, port},
    xdp_bed::{FAST, leaving},
};
use std::{collections::BTreeSet, net::IpAddr};

/// Lines of a CPU's cache here, and flows.
const LINES: u32 = 64;
const FLOWS: u32 = 200;

/// Flows of a client, each by its port.
struct Crowd {
    client: IpAddr,
    dialled: (IpAddr, u16),
    backend: (IpAddr, u16),
}

impl Crowd {
    fn packet(&self, number: u16, flags: u8) -> Packet {
        tcp((self.client, number), self.dialled, flags)
    }

    /// The packet of a flow leaves translated, whether the flow is at hand or not.
    #[track_caller]
    fn leaves(&self, bed: &Bed, number: u16) {
        let packet = self.packet(number, ACK);
        let out = packet.between((self.client, number), self.backend).hop();
        let want = Outcome { verdict: FAST, bytes: leaving(Device::Mesh, &out).bytes() };
        assert_eq!(bed.xdp(Device::Nic, &packet), want, "{number}");
    }

    /// A packet of each; the first of all finds their way. Those that are in lines then.
    #[track_caller]
    fn come(&self, bed: &Bed, flows: &BTreeSet<u16>) -> BTreeSet<u16> {
        bed.xdp(Device::Nic, &self.packet(*flows.first().unwrap(), ACK));
        flows.iter().for_each(|number| self.leaves(bed, *number));
        let held = self.at_hand(bed, flows);
        let lines = LINES as usize;
        assert!((lines * 3 / 4..=lines).contains(&held.len()), "{} are at hand", held.len());
        held
    }

    /// Those of them that are in lines.
    fn at_hand(&self, bed: &Bed, of: &BTreeSet<u16>) -> BTreeSet<u16> {
        let is = |number: &u16| !bed.leaves_by(&self.packet(*number, ACK)).is_empty();
        of.iter().copied().filter(is).collect()
    }
}

#[test]
fn more_flows_than_lines_do_not_take_turns() {
    let Some(mut bed) = Bed::fast() else { return };
    bed.configure(|config| config.cached = LINES - 1);
    for plan in Plan::both() {
        let (dialled, backend) = ((plan.vip, port::CONTAINER), (plan.container, port::BACKEND));
        let crowd = Crowd { client: plan.client, dialled, backend };
        let flows: BTreeSet<u16> = (0..FLOWS).map(|_| bed.port()).collect();
        // What begins a flow is in no line.
        flows.iter().for_each(|number| bed.begin(Device::Nic, &crowd.packet(*number, SYN)));
        assert_eq!(crowd.at_hand(&bed, &flows), BTreeSet::new());
        let held = crowd.come(&bed, &flows);
        assert_eq!(crowd.come(&bed, &flows), held, "those that are there stay");
        // Until they are stale, and others are first.
        bed.configure(|config| config.epoch += 1);
        crowd.come(&bed, &(&flows - &held));
    }
}
