/* Sends back whatever comes at the socket `names`: one thread, poll(2), at most 64 sessions. */
#include <errno.h>
#include <patchbay.h>
#include <poll.h>
#include <stdio.h>

enum { SESSIONS = 64 };

struct user {
    patchbay_session *session;
    char buffer[64 * 1024];
    size_t length, sent;
};

static struct user users[SESSIONS];

/* Goes on until the session would wait; 0 once it is over. */
static int serve(struct user *user) {
    for (;;) {
        ssize_t done;
        if (user->sent < user->length) {
            done = patchbay_write(user->session, user->buffer + user->sent, user->length - user->sent);
            if (done > 0) user->sent += (size_t)done;
        } else {
            done = patchbay_read(user->session, user->buffer, sizeof user->buffer);
            if (done == 0) return 0;
            user->length = done > 0 ? (size_t)done : 0;
            user->sent = 0;
        }
        if (done < 0) return errno == EAGAIN && !patchbay_close_requested(user->session);
    }
}

int main(void) {
    patchbay_service *service = patchbay_start();
    patchbay_socket *names = service ? patchbay_listen(service, "names") : NULL;
    if (!names) {
        fprintf(stderr, "error: %s\n", patchbay_error());
        return 1;
    }
    while (!patchbay_shutdown_requested(service)) {
        struct pollfd waits[SESSIONS + 2] = {
            {.fd = patchbay_service_fd(service), .events = POLLIN},
            {.fd = -1, .events = POLLIN},
        };
        for (int i = 0; i < SESSIONS; i++) {
            waits[i + 2].fd = users[i].session ? patchbay_session_fd(users[i].session) : -1;
            waits[i + 2].events = POLLIN;
            /* Who finds no place waits in the socket. */
            if (!users[i].session) waits[1].fd = patchbay_socket_fd(names);
        }
        if (poll(waits, SESSIONS + 2, -1) < 0 && errno != EINTR) break;
        for (int i = 0; i < SESSIONS; i++) {
            struct user *user = &users[i];
            int is_new = !user->session && (user->session = patchbay_accept(names, 0));
            if (is_new) {
                patchbay_set_timeout(user->session, 0);
                user->length = user->sent = 0;
            }
            if (!user->session || (!is_new && !waits[i + 2].revents)) continue;
            if (!serve(user)) {
                patchbay_close(user->session);
                user->session = NULL;
            }
        }
    }
    for (int i = 0; i < SESSIONS; i++) patchbay_close(users[i].session);
    patchbay_socket_close(names);
    patchbay_end(service);
    return 0;
}
