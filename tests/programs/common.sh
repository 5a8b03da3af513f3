# Sourced by each case: PORT is a free port of the case's own network namespace, WORK an empty folder.
# What a case prints must be the same with and without redirection; its programs' chatter goes to the log.
set -eu
cd "$WORK"
exec 3>&1 >"$WORK/log" 2>&1

# Prints a line of the result.
result() { echo "$*" >&3; }

# Waits until something listens at a port.
wait_for() {
    for _ in $(seq 200); do
        if ss -Hltn "sport = :$1" | grep -q .; then return 0; fi
        sleep 0.05
    done
    result "nothing listens at $1"
    exit 1
}

# A file of random-looking bytes that is the same each time.
pattern() { openssl enc -aes-128-ctr -K 00 -iv 00 -in /dev/zero 2>/dev/null | head -c "$1" || true; }

# Ends the servers that the case started, by their ids.
servers=""
serve() { "$@" & servers="$servers $!"; }
trap 'for id in $servers; do kill "$id" 2>/dev/null || true; done; wait' EXIT
