//! Rules of policy routing that send marked packets to a table and carry this program's [`PROTOCOL`].

use super::{route::PROTOCOL, socket::Rtnl};
use mesh_control::model::Family;
use rtnetlink::packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::RouteProtocol,
    rule::{RuleAction, RuleAttribute, RuleMessage},
};
use std::io;

/// Packets whose mark, masked, is `mark` are routed by `table`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Rule {
    /// Of which family's packets.
    pub family: Family,
    /// The lesser goes first; 0 is the local table, 32766 the main one.
    pub priority: u32,
    /// The mark.
    pub mark: u32,
    /// Which bits of the mark count.
    pub mask: u32,
    /// The table.
    pub table: u32,
}

impl Rule {
    fn message(&self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = netlink_family(self.family);
        message.header.action = RuleAction::ToTable;
        message.attributes = vec![
            RuleAttribute::Priority(self.priority),
            RuleAttribute::FwMark(self.mark),
            RuleAttribute::FwMask(self.mask),
            RuleAttribute::Table(self.table),
            RuleAttribute::Protocol(RouteProtocol::Other(PROTOCOL)),
        ];
        message
    }

    fn read(message: &RuleMessage, family: Family) -> Option<Rule> {
        let table = u32::from(message.header.table);
        let mut rule = Rule { family, priority: 0, mark: 0, mask: 0, table };
        let mut ours = false;
        for attribute in &message.attributes {
            match attribute {
                RuleAttribute::Priority(value) => rule.priority = *value,
                RuleAttribute::FwMark(value) => rule.mark = *value,
                RuleAttribute::FwMask(value) => rule.mask = *value,
                RuleAttribute::Table(value) => rule.table = *value,
                RuleAttribute::Protocol(protocol) => ours = *protocol == RouteProtocol::Other(PROTOCOL),
                _ => {}
            }
        }
        ours.then_some(rule)
    }
}

fn netlink_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

impl Rtnl {
    /// The rules that carry [`PROTOCOL`].
    ///
    /// # Errors
    /// What the kernel says.
    pub fn rules(&mut self) -> io::Result<Vec<Rule>> {
        let mut found = Vec::new();
        for family in [Family::V4, Family::V6] {
            let mut request = RuleMessage::default();
            request.header.family = netlink_family(family);
            for message in self.list(&RouteNetlinkMessage::GetRule(request))? {
                if let RouteNetlinkMessage::NewRule(message) = message {
                    found.extend(Rule::read(&message, family));
                }
            }
        }
        Ok(found)
    }

    /// Makes a rule.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn add_rule(&mut self, rule: &Rule) -> io::Result<()> {
        self.create(RouteNetlinkMessage::NewRule(rule.message()))
    }

    /// Removes a rule.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove_rule(&mut self, rule: &Rule) -> io::Result<()> {
        self.change(RouteNetlinkMessage::DelRule(rule.message()))
    }
}
