//! A batch of changes that the kernel takes whole or not at all.

use super::{
    c,
    element::{Batchful, Element},
    expr::Expr,
    object::{FlowTimeout, FlowTimeoutMessage},
    set::{Holds, Set, SetMessage, header},
    table::Table,
};
use nftnl::{Batch, FinalizedBatch, MsgType, NlMsg};
use nftnl_sys::{self as sys, libc};
use std::ffi::{CString, c_void};

/// The kind of a base chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HookKind {
    /// Sees every packet.
    Filter,
    /// Sees the first packet of every flow.
    Nat,
    /// Sees every packet of this host's own, which is routed again when its mark changes.
    Route,
}

/// Where a base chain is hooked in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hook {
    /// Kind.
    pub kind: HookKind,
    /// `NF_INET_*` or `NF_NETDEV_*`.
    pub number: libc::c_int,
    /// Lower is earlier.
    pub priority: i32,
    /// The device, in the netdev family.
    pub device: Option<String>,
}

/// A batch under construction.
pub struct Transaction {
    batch: Batch,
    sets: u32,
}

impl Default for Transaction {
    fn default() -> Self {
        Transaction::new()
    }
}

impl Transaction {
    /// An empty one.
    #[must_use]
    pub fn new() -> Transaction {
        Transaction { batch: Batch::new(), sets: 0 }
    }

    /// Makes a table unless it is there.
    pub fn add_table(&mut self, table: &Table) {
        self.batch.add(&table.raw(), MsgType::Add);
    }

    /// Deletes a table with all that is in it, and does nothing when it is not there.
    pub fn delete_table(&mut self, table: &Table) {
        self.add_table(table);
        self.batch.add(&table.raw(), MsgType::Del);
    }

    /// Makes a chain, hooked in when `hook` is given.
    pub fn add_chain(&mut self, table: &Table, name: &str, hook: Option<&Hook>) {
        self.batch.add(&ChainMessage { table, name, hook }, MsgType::Add);
    }

    /// Deletes a chain with its rules.
    pub fn delete_chain(&mut self, table: &Table, name: &str) {
        self.batch.add(&ChainMessage { table, name, hook: None }, MsgType::Del);
    }

    /// Adds a rule at the end of a chain, with a comment that people and [`super::Nft::comments`] read.
    pub fn add_rule(&mut self, table: &Table, chain: &str, expressions: &[Expr], comment: &str) {
        let table = table.raw();
        let chain = nftnl::Chain::new(c(chain), &table);
        let mut rule = nftnl::Rule::new(&chain);
        for expr in expressions {
            rule.add_expr(expr);
        }
        // Ours are short; one that were too long would be missed when the rules are read back.
        let _fits = rule.set_comment(c(comment));
        self.batch.add(&rule, MsgType::Add);
    }

    /// Makes a set or map.
    pub fn add_set(&mut self, table: &Table, set: &Set) {
        self.sets += 1;
        self.batch.add(&SetMessage { table, set, id: self.sets }, MsgType::Add);
    }

    /// Deletes a set or map that no rule names any more.
    pub fn delete_set(&mut self, table: &Table, name: &str) {
        let set = Set::new(name, &[], Holds::Keys);
        self.batch.add(&SetMessage { table, set: &set, id: 0 }, MsgType::Del);
    }

    /// Makes a timeout that rules may give to flows, unless it is there.
    pub fn add_timeout(&mut self, table: &Table, timeout: &FlowTimeout) {
        self.batch.add(&FlowTimeoutMessage { table, timeout }, MsgType::Add);
    }

    /// Deletes a timeout that no rule names any more; flows that have it get the usual one.
    pub fn delete_timeout(&mut self, table: &Table, timeout: &FlowTimeout) {
        self.batch.add(&FlowTimeoutMessage { table, timeout }, MsgType::Del);
    }

    /// Puts elements into a set.
    pub fn add_elements<'a>(
        &mut self,
        table: &Table,
        set: &str,
        elements: impl Iterator<Item = &'a Element>,
    ) {
        let elements = Batchful::new(table, set, elements, true);
        while elements.more() {
            self.batch.add(&elements, MsgType::Add);
        }
    }

    /// Takes elements out of a set.
    pub fn delete_elements<'a>(
        &mut self,
        table: &Table,
        set: &str,
        elements: impl Iterator<Item = &'a Element>,
    ) {
        let elements = Batchful::new(table, set, elements, false);
        while elements.more() {
            self.batch.add(&elements, MsgType::Del);
        }
    }

    pub(super) fn finish(self) -> FinalizedBatch {
        self.batch.finalize()
    }
}

/// The message that makes or deletes a chain. `nftnl` has no name for the egress hook, so this is ours.
struct ChainMessage<'a> {
    table: &'a Table,
    name: &'a str,
    hook: Option<&'a Hook>,
}

// SAFETY: writes one message made by libnftnl, which fits the buffer that `Batch` gives.
unsafe impl NlMsg for ChainMessage<'_> {
    #[expect(clippy::cast_possible_truncation, reason = "attribute and message numbers are small constants")]
    unsafe fn write(&self, buffer: *mut c_void, sequence: u32, what: MsgType) {
        // SAFETY: libnftnl copies what it is given, and the chain is freed at the end.
        unsafe {
            let chain = sys::nftnl_chain_alloc();
            if chain.is_null() {
                std::alloc::handle_alloc_error(std::alloc::Layout::new::<Hook>());
            }
            let text = |attribute: u32, value: &CString| {
                sys::nftnl_chain_set_str(chain, attribute as u16, value.as_ptr());
            };
            text(sys::NFTNL_CHAIN_TABLE, &c(&self.table.name));
            text(sys::NFTNL_CHAIN_NAME, &c(self.name));
            if let Some(hook) = self.hook {
                let number = hook.number.unsigned_abs();
                sys::nftnl_chain_set_u32(chain, sys::NFTNL_CHAIN_HOOKNUM as u16, number);
                sys::nftnl_chain_set_s32(chain, sys::NFTNL_CHAIN_PRIO as u16, hook.priority);
                let kind = match hook.kind {
                    HookKind::Filter => c"filter",
                    HookKind::Nat => c"nat",
                    HookKind::Route => c"route",
                };
                sys::nftnl_chain_set_str(chain, sys::NFTNL_CHAIN_TYPE as u16, kind.as_ptr());
                let accept = libc::NF_ACCEPT.unsigned_abs();
                sys::nftnl_chain_set_u32(chain, sys::NFTNL_CHAIN_POLICY as u16, accept);
                if let Some(device) = &hook.device {
                    text(sys::NFTNL_CHAIN_DEV, &c(device));
                }
            }
            let (kind, flags) = match what {
                MsgType::Add => (libc::NFT_MSG_NEWCHAIN, libc::NLM_F_CREATE | libc::NLM_F_ACK),
                MsgType::Del => (libc::NFT_MSG_DELCHAIN, libc::NLM_F_ACK),
            };
            let header = header(buffer, kind, self.table.family, flags as u16, sequence);
            sys::nftnl_chain_nlmsg_build_payload(header, chain);
            sys::nftnl_chain_free(chain);
        }
    }
}
