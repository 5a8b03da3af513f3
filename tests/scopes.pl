# Both ends of some sessions, one after the other, that never block in a call: scopes.pl SESSIONS [PORT]
use strict;
use warnings;
use IO::Select;
use IO::Socket::INET;

my ($sessions, $port) = @ARGV;
my $listener =
    IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $port // 0, Listen => 9, ReuseAddr => 1) or die $!;
for (1 .. $sessions) {
    my $source = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $listener->sockport) or die $!;
    my $destination = $listener->accept or die $!;
    $_->blocking(0) for ($source, $destination);
    for my $ends ([$source, $destination], [$destination, $source]) {
        my ($from, $to) = @$ends;
        syswrite($from, 'ping') == 4 or die $!;
        IO::Select->new($to)->can_read(9) or die 'nothing comes';
        sysread($to, my $got, 9) == 4 or die $!;
    }
    close $_ for ($source, $destination);
    select undef, undef, undef, 0.002;
}
print "well\n";
