//! The kernel programs of mesh-agent.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod atomic;
mod choose;
mod maps;
mod packet;
mod service;
mod socket;

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Some helpers are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
