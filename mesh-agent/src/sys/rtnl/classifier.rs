//! Programs as filters of a device's queueing discipline `clsact` (tc-bpf(8), linux/pkt_cls.h): what there is for packets
//! before tcx (Linux 6.6).

use super::socket::Rtnl;
use rtnetlink::packet_route::{
    RouteNetlinkMessage,
    tc::{
        TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption as BpfOption, TcHandle, TcHeader, TcMessage,
        TcOption,
    },
};
use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

/// The queueing discipline.
const CLSACT: &str = "clsact";
/// `ETH_P_ALL` of linux/if_ether.h, in the order of the network.
const ALL: u16 = 0x0003_u16.to_be();

/// Which packets of a device.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Direction {
    /// Those that come in.
    Ingress,
    /// Those that go out.
    Egress,
}

impl Direction {
    /// Both.
    pub const ALL: [Direction; 2] = [Direction::Ingress, Direction::Egress];
}

/// A filter that is a program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Classifier {
    /// The device's index.
    pub link: u32,
    /// Which packets it sees.
    pub direction: Direction,
    /// Its place: the lesser goes first.
    pub priority: u16,
    /// Which of those at that place.
    pub handle: u32,
    /// What it is called, up to 255 bytes.
    pub name: String,
    /// The kernel's number of the program.
    pub program: u32,
}

/// The filters of a device.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Classifiers {
    /// Those that are programs with a name.
    pub programs: Vec<Classifier>,
    /// How many messages tell of others: not fewer than there are.
    pub others: usize,
}

fn device(link: u32) -> io::Result<i32> {
    i32::try_from(link).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// Whether a message is about something of that kind.
fn is(message: &TcMessage, kind: &str) -> bool {
    message.attributes.iter().any(|a| matches!(a, TcAttribute::Kind(its) if its == kind))
}

/// A message about the queueing discipline.
fn discipline(link: u32) -> io::Result<TcMessage> {
    let mut message = TcMessage::default();
    message.header.index = device(link)?;
    message.header.handle = TcHandle { minor: 0, ..TcHandle::CLSACT };
    message.header.parent = TcHandle::CLSACT;
    message.attributes = vec![TcAttribute::Kind(CLSACT.to_owned())];
    Ok(message)
}

/// A message about filters of one direction.
fn filters(link: u32, direction: Direction) -> io::Result<TcMessage> {
    let mut message = TcMessage::default();
    message.header.index = device(link)?;
    let minor = match direction {
        Direction::Ingress => TcHandle::MIN_INGRESS,
        Direction::Egress => TcHandle::MIN_EGRESS,
    };
    message.header.parent = TcHandle { minor, ..TcHandle::CLSACT };
    Ok(message)
}

impl Classifier {
    /// A message about this filter.
    fn message(&self) -> io::Result<TcMessage> {
        let mut message = filters(self.link, self.direction)?;
        message.header.handle = self.handle.into();
        message.header.info = u32::from(self.priority) << 16 | u32::from(ALL);
        message.attributes = vec![TcAttribute::Kind(TcFilterBpf::KIND.to_owned())];
        Ok(message)
    }

    /// A message that puts a program there; the number in `program` is not looked at.
    fn with(&self, program: BorrowedFd<'_>) -> io::Result<TcMessage> {
        let mut message = self.message()?;
        let options = [
            BpfOption::ProgFd(program.as_raw_fd().unsigned_abs()),
            BpfOption::ProgName(self.name.clone()),
            // What the program gives is what becomes of the packet.
            BpfOption::Flags(TcBpfFlags::DirectAction),
        ];
        message.attributes.push(TcAttribute::Options(options.map(TcOption::Bpf).into()));
        Ok(message)
    }

    /// `None` for what is no program with a name.
    fn read(message: &TcMessage, direction: Direction) -> Option<Classifier> {
        let TcHeader { index, handle, info, .. } = message.header;
        let (mut name, mut program) = (None, None);
        let options = message.attributes.iter().filter_map(|attribute| match attribute {
            TcAttribute::Options(options) => Some(options),
            _ => None,
        });
        for option in options.flatten() {
            match option {
                TcOption::Bpf(BpfOption::ProgName(text)) => name = Some(text.clone()),
                TcOption::Bpf(BpfOption::ProgId(number)) => program = Some(*number),
                _ => {}
            }
        }
        Some(Classifier {
            link: u32::try_from(index).ok()?,
            direction,
            priority: u16::try_from(info >> 16).ok()?,
            handle: handle.into(),
            name: name?,
            program: program?,
        })
    }
}

impl Rtnl {
    /// The devices that have the queueing discipline, by index.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn clsacts(&mut self) -> io::Result<BTreeSet<u32>> {
        let all = self.list(&RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default()))?;
        let found = all.iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewQueueDiscipline(message) if is(message, CLSACT) => {
                u32::try_from(message.header.index).ok()
            }
            _ => None,
        });
        Ok(found.collect())
    }

    /// Gives a device the queueing discipline. It delays no packet.
    ///
    /// # Errors
    /// What the kernel says: that the device has it, or `ingress`, which leaves no room for it.
    pub fn add_clsact(&mut self, link: u32) -> io::Result<()> {
        self.create(RouteNetlinkMessage::NewQueueDiscipline(discipline(link)?))
    }

    /// Takes it away, with all filters.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove_clsact(&mut self, link: u32) -> io::Result<()> {
        self.change(RouteNetlinkMessage::DelQueueDiscipline(discipline(link)?))
    }

    /// The filters of a device that has the queueing discipline.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn classifiers(&mut self, link: u32) -> io::Result<Classifiers> {
        let mut found = Classifiers::default();
        for direction in Direction::ALL {
            let all = self.list(&RouteNetlinkMessage::GetTrafficFilter(filters(link, direction)?))?;
            for message in all {
                match message {
                    // Of programs, one without a number is about their place, not one of them.
                    RouteNetlinkMessage::NewTrafficFilter(m)
                        if m.header.handle == TcHandle::UNSPEC && is(&m, TcFilterBpf::KIND) => {}
                    RouteNetlinkMessage::NewTrafficFilter(m) => match Classifier::read(&m, direction) {
                        Some(classifier) => found.programs.push(classifier),
                        None => found.others += 1,
                    },
                    _ => {}
                }
            }
            found.others += self.unread();
        }
        Ok(found)
    }

    /// Puts a program where no filter is.
    ///
    /// # Errors
    /// What the kernel says: that there is one.
    pub fn add_classifier(&mut self, at: &Classifier, program: BorrowedFd<'_>) -> io::Result<()> {
        self.create(RouteNetlinkMessage::NewTrafficFilter(at.with(program)?))
    }

    /// Puts a program in the place of a filter: no packet meets none, or both.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn replace_classifier(&mut self, at: &Classifier, program: BorrowedFd<'_>) -> io::Result<()> {
        self.put(RouteNetlinkMessage::NewTrafficFilter(at.with(program)?))
    }

    /// Removes a filter.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove_classifier(&mut self, at: &Classifier) -> io::Result<()> {
        self.change(RouteNetlinkMessage::DelTrafficFilter(at.message()?))
    }
}
