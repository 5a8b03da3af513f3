/* Greets whoever's name comes in a line; a thread for each session. The greeter of examples/hello in C. */
#include <patchbay.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int write_all(patchbay_session *session, const char *from, size_t bytes) {
    while (bytes > 0) {
        ssize_t sent = patchbay_write(session, from, bytes);
        if (sent < 0) return -1;
        from += sent, bytes -= (size_t)sent;
    }
    return 0;
}

static void *greet(void *argument) {
    patchbay_session *session = argument;
    char buffer[64 * 1024];
    int begun = 0;
    for (ssize_t got; (got = patchbay_read(session, buffer, sizeof buffer)) > 0;) {
        for (char *at = buffer, *end; at < buffer + got; at = end) {
            end = memchr(at, '\n', (size_t)(buffer + got - at));
            end = end ? end + 1 : buffer + got;
            if ((!begun && write_all(session, "hello, ", 7)) || write_all(session, at, (size_t)(end - at))) goto over;
            begun = end[-1] != '\n';
        }
    }
over:
    patchbay_close(session);
    return NULL;
}

int main(void) {
    patchbay_service *service = patchbay_start();
    patchbay_socket *names = service ? patchbay_listen(service, "names") : NULL;
    if (!names) {
        fprintf(stderr, "error: %s\n", patchbay_error());
        return 1;
    }
    while (!patchbay_shutdown_requested(service)) {
        patchbay_session *session = patchbay_accept(names, 100);
        pthread_t thread;
        if (session && pthread_create(&thread, NULL, greet, session) == 0) pthread_detach(thread);
    }
    patchbay_end(service);
    return 0;
}
