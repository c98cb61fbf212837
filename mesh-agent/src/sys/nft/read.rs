//! Reading back what the kernel holds.

use super::{
    element::{self, Batchful, Element},
    set,
    socket::Nft,
    table::Table,
};
use crate::sys::nfnetlink::{ACK, Answer, REQUEST, Request, malformed, messages};
use nftnl_sys::{self as sys, libc};
use std::{collections::BTreeMap, ffi::CStr, io};

/// Room for a request; libnftnl writes no longer message.
const ROOM: usize = 80 << 10;

/// A rule as it was read.
struct RuleSeen {
    chain: String,
    comment: String,
}

#[expect(clippy::cast_possible_truncation, reason = "attribute numbers are small constants")]
const fn attr(number: u32) -> u16 {
    number as u16
}

/// `NFT_MSG_*` as a message of the nf_tables subsystem carries it.
fn is(kind: u16, message: libc::c_int) -> bool {
    i32::from(kind) == libc::NFNL_SUBSYS_NFTABLES << 8 | message
}

impl Nft {
    fn request(&mut self, kind: libc::c_int, flags: libc::c_int) -> (Vec<u8>, u16, libc::c_int) {
        self.sequence = self.sequence.wrapping_add(1);
        let flags = u16::try_from(libc::NLM_F_REQUEST | flags).unwrap_or(0);
        (vec![0; ROOM], flags, kind)
    }

    /// The number of the last change of any table of this namespace, whoever made it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn generation(&mut self) -> io::Result<u32> {
        self.sequence = self.sequence.wrapping_add(1);
        let subsystem = u16::try_from(libc::NFNL_SUBSYS_NFTABLES).unwrap_or(0);
        let kind = u16::try_from(libc::NFT_MSG_GETGEN).unwrap_or(0);
        let mut request = Request::new(subsystem, kind, REQUEST | ACK, 0);
        let mut generation = None;
        self.ask(request.finish(self.sequence), |message| {
            for (_, answer) in messages(message.bytes).flatten() {
                if let Answer::Data(_, mut attributes) = answer {
                    // NFTA_GEN_ID
                    generation = attributes.find(|(kind, _)| *kind == 1).and_then(|(_, value)| value.u32());
                }
            }
        })?;
        generation.ok_or_else(malformed)
    }

    /// All elements of a set; none when there is no such set or table.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn elements(&mut self, table: &Table, name: &str) -> io::Result<Vec<Element>> {
        let (mut buffer, flags, kind) = self.request(libc::NFT_MSG_GETSETELEM, libc::NLM_F_DUMP);
        // SAFETY: the buffer is longer than the message; the set is freed.
        let len = unsafe {
            let set = set::raw(table, name);
            let header = set::header(buffer.as_mut_ptr().cast(), kind, table.family, flags, self.sequence);
            sys::nftnl_set_elems_nlmsg_build_payload(header, set);
            sys::nftnl_set_free(set);
            (*header).nlmsg_len
        };
        buffer.truncate(usize::try_from(len).unwrap_or(0));
        self.dump(&buffer, |all, message| {
            if is(message.kind, libc::NFT_MSG_NEWSETELEM) {
                // SAFETY: a whole message.
                unsafe { element::read(message.bytes.as_ptr().cast(), &mut |e| all.push(e)) };
            }
        })
    }

    /// The elements of these keys; those before the first that the set lacks.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn get(&mut self, table: &Table, name: &str, keys: &[Vec<u8>]) -> io::Result<Vec<Element>> {
        let wanted: Vec<Element> =
            keys.iter().map(|key| Element { key: key.clone(), ..Element::default() }).collect();
        let wanted = Batchful::new(table, name, wanted.iter(), false);
        let mut found = Vec::new();
        while wanted.more() {
            self.sequence = self.sequence.wrapping_add(1);
            let mut buffer = vec![0; ROOM];
            let len = wanted.request(&mut buffer, self.sequence);
            found.extend(self.dump(&buffer[..len], |all, message| {
                if is(message.kind, libc::NFT_MSG_NEWSETELEM) {
                    // SAFETY: a whole message.
                    unsafe { element::read(message.bytes.as_ptr().cast(), &mut |e| all.push(e)) };
                }
            })?);
        }
        Ok(found)
    }

    /// The comments of a table's rules in order, by chain; chains without rules among them.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn comments(&mut self, table: &Table) -> io::Result<BTreeMap<String, Vec<String>>> {
        let names = self.chains(table)?;
        let mut comments: BTreeMap<String, Vec<String>> =
            names.into_iter().map(|name| (name, Vec::new())).collect();
        for rule in self.rules(table)? {
            comments.entry(rule.chain).or_default().push(rule.comment);
        }
        Ok(comments)
    }

    fn rules(&mut self, table: &Table) -> io::Result<Vec<RuleSeen>> {
        let (mut buffer, flags, kind) = self.request(libc::NFT_MSG_GETRULE, libc::NLM_F_DUMP);
        // SAFETY: the buffer is longer than the message; the rule is freed; libnftnl copies the name.
        let len = unsafe {
            let header = set::header(buffer.as_mut_ptr().cast(), kind, table.family, flags, self.sequence);
            let rule = sys::nftnl_rule_alloc();
            if !rule.is_null() {
                let name = super::c(&table.name);
                sys::nftnl_rule_set_str(rule, attr(sys::NFTNL_RULE_TABLE), name.as_ptr());
                sys::nftnl_rule_nlmsg_build_payload(header, rule);
                sys::nftnl_rule_free(rule);
            }
            (*header).nlmsg_len
        };
        buffer.truncate(usize::try_from(len).unwrap_or(0));
        self.dump(&buffer, |all, message| {
            if is(message.kind, libc::NFT_MSG_NEWRULE) {
                // SAFETY: a whole message; the rule is freed; its strings are copied before.
                unsafe {
                    let rule = sys::nftnl_rule_alloc();
                    if !rule.is_null() {
                        if sys::nftnl_rule_nlmsg_parse(message.bytes.as_ptr().cast(), rule) >= 0 {
                            all.push(read_rule(rule));
                        }
                        sys::nftnl_rule_free(rule);
                    }
                }
            }
        })
    }

    /// The names of the sets and maps of a table.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn sets(&mut self, table: &Table) -> io::Result<Vec<String>> {
        let (mut buffer, flags, kind) = self.request(libc::NFT_MSG_GETSET, libc::NLM_F_DUMP);
        // SAFETY: the buffer is longer than the message; the set is freed.
        let len = unsafe {
            let set = set::raw(table, "");
            sys::nftnl_set_unset(set, attr(sys::NFTNL_SET_NAME));
            let header = set::header(buffer.as_mut_ptr().cast(), kind, table.family, flags, self.sequence);
            sys::nftnl_set_nlmsg_build_payload(header, set);
            sys::nftnl_set_free(set);
            (*header).nlmsg_len
        };
        buffer.truncate(usize::try_from(len).unwrap_or(0));
        self.dump(&buffer, |all, message| {
            if is(message.kind, libc::NFT_MSG_NEWSET) {
                // SAFETY: a whole message; the set is freed; its name is copied before.
                unsafe {
                    let set = sys::nftnl_set_alloc();
                    if !set.is_null() {
                        if sys::nftnl_set_nlmsg_parse(message.bytes.as_ptr().cast(), set) >= 0 {
                            all.push(text(sys::nftnl_set_get_str(set, attr(sys::NFTNL_SET_NAME))));
                        }
                        sys::nftnl_set_free(set);
                    }
                }
            }
        })
    }

    /// The names of the chains of a table.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn chains(&mut self, table: &Table) -> io::Result<Vec<String>> {
        let (mut buffer, flags, kind) = self.request(libc::NFT_MSG_GETCHAIN, libc::NLM_F_DUMP);
        // SAFETY: the buffer is longer than the message.
        let len = unsafe {
            let header = set::header(buffer.as_mut_ptr().cast(), kind, table.family, flags, self.sequence);
            (*header).nlmsg_len
        };
        buffer.truncate(usize::try_from(len).unwrap_or(0));
        self.dump(&buffer, |all, message| {
            if is(message.kind, libc::NFT_MSG_NEWCHAIN) {
                // SAFETY: a whole message; the chain is freed; its strings are copied before.
                unsafe {
                    let chain = sys::nftnl_chain_alloc();
                    if chain.is_null() {
                        return;
                    }
                    if sys::nftnl_chain_nlmsg_parse(message.bytes.as_ptr().cast(), chain) >= 0 {
                        let of = |attribute| text(sys::nftnl_chain_get_str(chain, attr(attribute)));
                        if of(sys::NFTNL_CHAIN_TABLE) == table.name {
                            all.push(of(sys::NFTNL_CHAIN_NAME));
                        }
                    }
                    sys::nftnl_chain_free(chain);
                }
            }
        })
    }
}

/// # Safety
/// `text` is null or a C string.
unsafe fn text(text: *const std::ffi::c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: as the caller promises.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// # Safety
/// `rule` is libnftnl's.
unsafe fn read_rule(rule: *mut sys::nftnl_rule) -> RuleSeen {
    // SAFETY: the strings and the user data live as long as the rule.
    unsafe {
        let chain = text(sys::nftnl_rule_get_str(rule, attr(sys::NFTNL_RULE_CHAIN)));
        let mut len = 0;
        let data: *const u8 =
            sys::nftnl_rule_get_data(rule, attr(sys::NFTNL_RULE_USERDATA), &raw mut len).cast();
        let bytes = match data.is_null() {
            true => &[][..],
            false => std::slice::from_raw_parts(data, usize::try_from(len).unwrap_or(0)),
        };
        // Type 0 is the comment, its text ended by a NUL.
        let comment = match bytes {
            [0, len, rest @ ..] => rest.get(..usize::from(*len)).and_then(|t| t.strip_suffix(&[0])),
            _ => None,
        };
        RuleSeen {
            chain,
            comment: comment.map(|t| String::from_utf8_lossy(t).into_owned()).unwrap_or_default(),
        }
    }
}
