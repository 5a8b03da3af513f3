/* libpatchbay: what a Patchbay service in C links. docs/sdk-c.md has an example.
 *
 * A service's plugs and sockets give sessions, which are read and written like connections; the agent, the Manager and, where
 * both ends are on one node, shared memory are behind them.
 *
 * Functions that return a pointer return NULL on failure, others -1; errno is set, and patchbay_error() says why. A session is
 * used by one thread at a time; a service and a socket may be used by several. One further thread, named `patchbay`, speaks
 * with the agent; it takes no signals. A program ignores SIGPIPE or not as it likes: no function raises it for memory. */
#ifndef PATCHBAY_H
#define PATCHBAY_H

#include <stddef.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct patchbay_service patchbay_service;
typedef struct patchbay_socket patchbay_socket;
typedef struct patchbay_session patchbay_session;

/* Why the last function of this thread failed, until the next one fails. */
const char *patchbay_error(void);

/* Reads how the agent has configured this instance, listens at every socket, and connects to the agent. Without an agent the
 * environment has plain addresses: PLUG_NAME=host:port, SOCKET_NAME=host:port. Call it once. */
patchbay_service *patchbay_start(void);
/* A descriptor that is readable once the instance is asked to end, and whether it is: finish what is at hand, close all
 * sessions, and call patchbay_end. */
int patchbay_service_fd(const patchbay_service *service);
int patchbay_shutdown_requested(const patchbay_service *service);
/* Says that the instance has as much work as it can do (1), or no longer (0). */
void patchbay_set_overloaded(const patchbay_service *service, int overloaded);
/* Tells the agent that the instance ends, within 2 seconds. */
void patchbay_end(patchbay_service *service);

/* A new session of a plug, with whatever instance the Manager chooses. Times are milliseconds; -1 is as long as it takes, at
 * most a minute for the Manager's answer. ECONNREFUSED: the Manager refused. EINVAL: there is no such plug. */
patchbay_session *patchbay_connect(const patchbay_service *service, const char *plug, int timeout_ms);

/* A socket of the service, to be taken once. EINVAL: there is none of this name. */
patchbay_socket *patchbay_listen(const patchbay_service *service, const char *socket);
/* The next session; -1 waits for ever, 0 not at all (EAGAIN), else ETIMEDOUT. */
patchbay_session *patchbay_accept(const patchbay_socket *socket, int timeout_ms);
/* A descriptor that is readable when a session waits. */
int patchbay_socket_fd(const patchbay_socket *socket);
void patchbay_socket_close(patchbay_socket *socket);

/* Bytes read, 0 at the end; bytes written, perhaps fewer than asked. They wait as patchbay_set_timeout says. */
ssize_t patchbay_read(patchbay_session *session, void *into, size_t bytes);
ssize_t patchbay_write(patchbay_session *session, const void *from, size_t bytes);
/* Says that nothing follows; the peer reads what was written, then the end. */
int patchbay_finish(patchbay_session *session);
/* How long reads and writes wait: -1 for ever (at first), 0 not at all (EAGAIN), else milliseconds (ETIMEDOUT). */
void patchbay_set_timeout(patchbay_session *session, int timeout_ms);
/* For a loop of the program's own: after a read or a write has said EAGAIN, wait for this descriptor to be readable (POLLIN, for
 * writing too), then try both again. It is the same for the whole life of the session; do nothing else with it. */
int patchbay_session_fd(const patchbay_session *session);
/* Whether the Manager asks to close the session: finish the message at hand and close it within 3 seconds; for the same work,
 * connect again. The descriptor becomes readable once. */
int patchbay_close_requested(const patchbay_session *session);
/* Whether what is written goes through shared memory now. */
int patchbay_in_memory(const patchbay_session *session);
void patchbay_close(patchbay_session *session);

#ifdef __cplusplus
}
#endif

#endif
