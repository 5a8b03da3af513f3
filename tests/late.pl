# Clean sessions from which a program is learned, then some in which it does something for the first time: prints what
# those saw. Perl, because its files do not call splice. usage: late.pl HABIT
use strict;
use warnings;
use IO::Select;
use IO::Socket::INET;
use POSIX ();
use Socket;

use constant { LEARN => 70, LATE => 4, FIONREAD => 0x541b, SO_PEEK_OFF => 42, LIMIT => 3 };

my ($habit) = @ARGV;
$SIG{PIPE} = 'IGNORE';
my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 50) or die $!;

sub pause { select undef, undef, undef, $_[0] }

sub pair {
    my $client = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $listener->sockport) or die $!;
    my $server = $listener->accept;
    $_->blocking(0) for $client, $server;
    return ($client, $server);
}

# Reads so much, or until the end.
sub take {
    my ($end, $length) = @_;
    my $got = '';
    while (length $got < $length && IO::Select->new($end)->can_read(LIMIT)) {
        my $read = sysread $end, $got, $length - length $got, length $got;
        last if defined $read && $read == 0;
    }
    return $got;
}

sub talk {
    my ($client, $server) = @_;
    for my $turn (1 .. 5) {
        syswrite $client, 'question';
        take($server, 8);
        syswrite $server, 'answer';
        take($client, 6);
    }
}

my %late = (
    none => sub { my ($client, $server) = @_; syswrite $client, '0123456789'; take($server, 10) },
    unread => sub {
        my ($client, $server) = @_;
        syswrite $client, '0123456789';
        pause(0.05);
        my $size = pack 'i', 0;
        ioctl $server, FIONREAD, $size or die $!;
        return unpack('i', $size) . ' ' . take($server, 10);
    },
    peek => sub {
        my ($client, $server) = @_;
        setsockopt $server, SOL_SOCKET, SO_PEEK_OFF, pack 'i', 0 or die $!;
        my $seen = '';
        for my $part ('one', 'two') {
            syswrite $client, $part;
            pause(0.05);
            recv $server, my $peeked, 9, MSG_PEEK;
            $seen .= $peeked;
        }
        return $seen . ' ' . take($server, 6);
    },
    # By its number, which no file shows.
    splice => sub {
        my ($client, $server) = @_;
        my $number = (POSIX::uname())[4] eq 'x86_64' ? 275 : 76;
        pipe my $out, my $into or die $!;
        syswrite $client, '0123456789';
        pause(0.05);
        for (1 .. 100 * LIMIT) {
            if (0 <= syscall $number, fileno $server, 0, fileno $into, 0, 10, 0) {
                sysread $out, my $got, 10;
                return $got;
            }
            return $! unless $!{EAGAIN};
            syswrite $client, 'later';
            pause(0.01);
        }
        return 'nothing';
    },
    half_close => sub {
        my ($client, $server) = @_;
        syswrite $client, 'request';
        shutdown $client, 1;
        my $request = take($server, 8);
        syswrite $server, 'answer';
        return $request . ' ' . take($client, 6);
    },
    empty => sub {
        my ($client, $server) = @_;
        my $got = recv $server, my $nothing, 0, 0;
        return defined $got ? 'no error' : $!{EAGAIN} ? 'EAGAIN' : $!;
    },
);

for my $session (1 .. LEARN) {
    my ($client, $server) = pair();
    talk($client, $server);
    close $client;
    close $server;
    pause(0.01);
}
pause(0.5);
for my $session (1 .. LATE) {
    my ($client, $server) = pair();
    talk($client, $server);
    print $late{$habit}->($client, $server), "\n";
    close $client;
    close $server;
    pause(0.3);
}
