//! What is remembered of a socket, from its first connect() or datagram to a frontend until it is closed.
//!
//! `cookies` and `sockets` are a table by the socket's cookie, in sets of a few: a place there is free to have, where
//! socket storage costs two allocations within connect(). Storage is for sockets that find their set taken.

use crate::{
    atomic,
    maps::{COOKIES, DIALLED, SOCKETS},
};
use aya_ebpf::{
    bindings::BPF_SK_STORAGE_GET_F_CREATE,
    helpers::{bpf_get_socket_cookie, generated::bpf_sk_storage_get},
    programs::{SockAddrContext, SockContext},
};
use core::{ffi::c_void, ptr};
use mesh_ebpf_common::{Dialled, WAYS, socket_set};

/// The place of one socket.
pub struct Memory {
    /// The socket's cookie.
    pub cookie: u64,
    set: u32,
    socket: *mut c_void,
}

impl Memory {
    /// Of the socket that an address is about.
    #[inline(always)]
    pub fn of(ctx: &SockAddrContext) -> Memory {
        // SAFETY: the kernel gives every context of this kind a socket.
        let socket = unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk };
        Memory::new(ctx.sock_addr.cast(), socket.cast())
    }

    /// Of the socket itself.
    #[inline(always)]
    pub fn of_socket(ctx: &SockContext) -> Memory {
        Memory::new(ctx.sock.cast(), ctx.sock.cast())
    }

    #[inline(always)]
    fn new(ctx: *mut c_void, socket: *mut c_void) -> Memory {
        // SAFETY: the kernel gave this context.
        let cookie = unsafe { bpf_get_socket_cookie(ctx) };
        Memory { cookie, set: socket_set(cookie), socket }
    }

    /// What is known. The kernel locks the socket while programs that change it run.
    #[inline(always)]
    pub fn known(&self) -> Option<&'static mut Dialled> {
        let cookies = COOKIES.get(self.set)?;
        for way in 0..WAYS {
            if cookies[way as usize] == self.cookie {
                // SAFETY: the entry is this socket's, and nobody else has its lock.
                return SOCKETS.get_ptr_mut(self.set * WAYS + way).map(|known| unsafe { &mut *known });
            }
        }
        // SAFETY: as above.
        unsafe { self.stored(ptr::null_mut(), 0).as_mut() }
    }

    /// Remembers what was not known.
    #[inline(always)]
    pub fn keep(&self, dialled: &mut Dialled) {
        let Some(cookies) = COOKIES.get_ptr_mut(self.set) else { return };
        for way in 0..WAYS {
            // SAFETY: within the entry.
            let place = unsafe { &raw mut (*cookies)[way as usize] };
            // SAFETY: as above; a look before the bus is locked.
            if unsafe { place.read_volatile() } == 0 && atomic::take(place, self.cookie) {
                if let Some(entry) = SOCKETS.get_ptr_mut(self.set * WAYS + way) {
                    // SAFETY: the place is this socket's.
                    unsafe { *entry = *dialled };
                }
                return;
            }
        }
        // Where memory is short, too, getpeername() says the backend's address, and the flow stays counted.
        self.stored(dialled, BPF_SK_STORAGE_GET_F_CREATE.into());
    }

    /// Gives the place to others. Storage goes with the socket.
    #[inline(always)]
    pub fn forget(&self) {
        let Some(cookies) = COOKIES.get_ptr_mut(self.set) else { return };
        for way in 0..WAYS {
            // SAFETY: within the entry.
            let place = unsafe { &raw mut (*cookies)[way as usize] };
            // SAFETY: as above.
            if unsafe { place.read_volatile() } == self.cookie {
                // SAFETY: as above; whoever takes it next sees zero first.
                unsafe { place.write_volatile(0) };
                return;
            }
        }
    }

    #[inline(always)]
    fn stored(&self, value: *mut Dialled, flags: u64) -> *mut Dialled {
        let map = (&raw const DIALLED).cast_mut().cast();
        // SAFETY: the socket is one of the kernel's; the value, if any, is of the map's size.
        unsafe { bpf_sk_storage_get(map, self.socket, value.cast(), flags) }.cast()
    }
}
