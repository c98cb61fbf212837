//! Packets that have the kernel's own sum (`CHECKSUM_COMPLETE`): it looks whether that fits afterwards. Of packets that become longer or
//! shorter the kernel drops it, and what a test run says of it then means nothing: they are left out here.

use crate::{
    bed::{Bed, Device, NEXT, REDIRECT, Way, arriving},
    packet::{ACK, Body, Packet, SYN, echo, error, long, tcp, udp},
    plan::{Plan, port},
};
use aya::programs::SchedClassifier;
use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
};

/// `BPF_PROG_TEST_RUN` of linux/bpf.h.
const TEST_RUN: libc::c_int = 10;
/// `BPF_F_TEST_SKB_CHECKSUM_COMPLETE`, likewise.
const COMPLETE: u32 = 1 << 2;

/// What `bpf(2)` takes for it.
#[repr(C)]
struct Test {
    program: u32,
    verdict: u32,
    sizes: [u32; 2],
    data: [u64; 2],
    repeat: u32,
    duration: u32,
    context_sizes: [u32; 2],
    contexts: [u64; 2],
    flags: u32,
    cpu: u32,
    batch: u32,
    pad: u32,
}

/// Runs the program for packets that come in over one that has such a sum: its verdict.
///
/// # Errors
///
/// `EINVAL` where the kernel has no such flag, `EBADMSG` where the sum does not fit.
#[expect(clippy::disallowed_methods, reason = "aya has no way to give this flag")]
fn summed(bed: &Bed, device: Device, packet: &Packet) -> io::Result<i32> {
    let program: &SchedClassifier = bed.ebpf.program("tc_ingress").unwrap().try_into().unwrap();
    let bytes = arriving(Way::In, device, packet).bytes();
    // `struct __sk_buff`, of which `ifindex` is at 40.
    let mut context = [0_u8; 192];
    context[40..44].copy_from_slice(&device.index().to_ne_bytes());
    let mut out = vec![0_u8; bytes.len() + 512];
    let size = |len: usize| u32::try_from(len).unwrap();
    let mut test = Test {
        program: program.fd().unwrap().as_fd().as_raw_fd().cast_unsigned(),
        verdict: 0,
        sizes: [size(bytes.len()), size(out.len())],
        data: [bytes.as_ptr() as u64, out.as_mut_ptr() as u64],
        repeat: 1,
        duration: 0,
        context_sizes: [size(context.len()), 0],
        contexts: [context.as_ptr() as u64, 0],
        flags: COMPLETE,
        cpu: 0,
        batch: 0,
        pad: 0,
    };
    // SAFETY: the structure is what this command takes and as long as is said; so are the buffers, which outlive the call.
    let run = || unsafe { libc::syscall(libc::SYS_bpf, TEST_RUN, &raw mut test, size_of::<Test>()) };
    if bed.netns.run(run) < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(test.verdict.cast_signed())
}

#[test]
fn the_kernels_own_sum_follows() {
    let Some(bed) = Bed::new() else { return };
    let (nic, mesh, vx) = (Device::Nic, Device::Mesh, Device::Vx);
    let strange = tcp((Plan::both()[0].outside, 1), (Plan::both()[0].client, 2), ACK);
    match summed(&bed, nic, &strange) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            eprintln!("SKIPPED: the test runs of this kernel have no CHECKSUM_COMPLETE");
            return;
        }
        done => assert_eq!(done.unwrap(), NEXT),
    }
    let check = |device, packet: &Packet, verdict| match summed(&bed, device, packet) {
        Ok(found) => assert_eq!(found, verdict, "{packet:?}"),
        Err(error) => panic!("{device:?} {packet:?}: {error}"),
    };
    for plan in Plan::both() {
        let bare = |from, to| {
            let mut packet = udp(from, to);
            if let Body::Udp { sum, .. } = &mut packet.body {
                *sum = !plan.vip.is_ipv4();
            }
            packet
        };
        for (dialled, source, backend, out) in [
            ((plan.vip, port::CONTAINER), plan.client, plan.container, mesh),
            ((plan.vip, port::REMOTE), plan.client, plan.remote, vx),
            ((plan.vip, port::OUTSIDE), plan.node, plan.outside, nic),
            ((plan.node, port::PUBLISHED), plan.client, plan.container, mesh),
        ] {
            let client = (plan.client, bed.port());
            let first = [tcp(client, dialled, SYN), udp(client, dialled)];
            for begins in &first {
                check(nic, begins, REDIRECT);
                let source = (source, bed.source(begins).unwrap());
                let made = begins.between(source, (backend, port::BACKEND));
                let about = error(plan.router, made.from, 3, 1, [0; 4], &made.ip());
                if plan.vip.is_ipv4() {
                    check(out, &about, REDIRECT);
                }
            }
            let source = (source, bed.source(&first[0]).unwrap());
            let answers = (backend, port::BACKEND);
            for packet in [
                tcp(client, dialled, ACK),
                udp(client, dialled),
                bare(client, dialled),
                long(client, dialled, 501),
            ] {
                // Looked up, and at hand.
                check(nic, &packet, REDIRECT);
                check(nic, &packet, REDIRECT);
            }
            for answer in [tcp(answers, source, ACK), tcp(answers, source, SYN | ACK)] {
                check(out, &answer, REDIRECT);
            }
        }
        check(nic, &echo(plan.client, plan.vip, true), REDIRECT);
        // A reset that is as long as what it answers.
        check(nic, &tcp((plan.client, bed.port()), (plan.vip, port::NOBODY), SYN), REDIRECT);
    }
}
