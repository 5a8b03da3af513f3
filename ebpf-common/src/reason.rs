/// Why a session, or a message of it, went over TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Reason {
    /// The other end is on another node.
    OtherNode = 1,
    /// The graph says `redirect = "never"`.
    Never = 2,
    /// No tested profile says that the program may be redirected.
    NoProfile = 3,
    /// Redirection is switched off.
    SwitchedOff = 4,
    /// A multipath TCP socket.
    Multipath = 5,
    /// The socket map is full, or the socket is in another map.
    NotInserted = 6,
    /// The accepting socket is not the declared instance's.
    OtherInstance = 7,
    /// Two connections began with the same sequence numbers.
    Mispaired = 8,
    /// A connection to itself, or one opened from both sides at once: nobody accepted it.
    NotAccepted = 9,
    /// The accepting end is not known yet.
    Unpaired = 10,
    /// Bytes sent over TCP are still unread.
    NotDrained = 11,
    /// The receiver has too many unread redirected bytes.
    OverBudget = 12,
    /// The direction went over TCP and its reader may be waiting there.
    BlockingReader = 13,
    /// The receiver asks for a minimum of bytes (SO_RCVLOWAT).
    MinimumAsked = 14,
    /// The other end has left the map.
    PeerGone = 15,
    /// This node cannot redirect.
    Unavailable = 16,
    /// Data was sent with the connection request (TCP Fast Open).
    FastOpen = 17,
    /// The program is being observed before it is redirected.
    Learning = 18,
    /// The program does something that redirection would break.
    Habit = 19,
    /// A stream of small writes, which TCP carries faster.
    SmallWrites = 20,
    /// TCP as a whole is short of memory.
    ShortOfMemory = 21,
    /// A stream that outruns its reader, so that it goes over TCP nearly always.
    OutrunsReader = 22,
    /// The socket was in the map for an earlier connection.
    Reused = 23,
    /// A table of the kernel programs is full.
    TableFull = 24,
    /// The socket was not connected but restored (TCP_REPAIR).
    Restored = 25,
    /// The self-test has not ended yet.
    Untested = 26,
    /// No destination was ready when an adapted program connected: the agent carries it.
    ThroughAgent = 40,
}

impl Reason {
    const ALL: [Self; 27] = [
        Self::OtherNode,
        Self::Never,
        Self::NoProfile,
        Self::SwitchedOff,
        Self::Multipath,
        Self::NotInserted,
        Self::OtherInstance,
        Self::Mispaired,
        Self::NotAccepted,
        Self::Unpaired,
        Self::NotDrained,
        Self::OverBudget,
        Self::BlockingReader,
        Self::MinimumAsked,
        Self::PeerGone,
        Self::Unavailable,
        Self::FastOpen,
        Self::Learning,
        Self::Habit,
        Self::SmallWrites,
        Self::ShortOfMemory,
        Self::OutrunsReader,
        Self::Reused,
        Self::TableFull,
        Self::Restored,
        Self::Untested,
        Self::ThroughAgent,
    ];

    /// The reason for a code from a map; `None` for 0.
    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| *reason as u32 == code)
    }

    /// A short text for people, without separators of the protocol.
    pub fn text(self) -> &'static str {
        match self {
            Self::OtherNode => "other node",
            Self::Never => "never by graph",
            Self::NoProfile => "no tested profile",
            Self::SwitchedOff => "switched off",
            Self::Multipath => "multipath TCP",
            Self::NotInserted => "map full or socket in another map",
            Self::OtherInstance => "accepted by another process",
            Self::Mispaired => "sequence numbers are not unique",
            Self::NotAccepted => "self-connected or simultaneous open",
            Self::Unpaired => "accepting end unknown",
            Self::NotDrained => "TCP bytes unread",
            Self::OverBudget => "receiver over budget",
            Self::BlockingReader => "reader may wait on TCP",
            Self::MinimumAsked => "receiver asks for a minimum",
            Self::PeerGone => "other end gone",
            Self::Unavailable => "node cannot redirect",
            Self::FastOpen => "TCP Fast Open",
            Self::Learning => "program being observed",
            Self::Habit => "program uses what is not known to be safe",
            Self::SmallWrites => "stream of small writes",
            Self::ShortOfMemory => "TCP is short of memory",
            Self::OutrunsReader => "stream outruns its reader",
            Self::Reused => "socket was used before",
            Self::TableFull => "table of sessions full",
            Self::Restored => "socket restored by TCP_REPAIR",
            Self::Untested => "self-test not done yet",
            Self::ThroughAgent => "through the agent",
        }
    }
}
