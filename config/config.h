/*
 * config: what the programs are told, typed. Read from YAML by field tables (schema.h), strict.
 *
 * A loaded config never changes. Whoever keeps a pointer into one holds a reference.
 * Thread: loading is for one thread; references may be taken and dropped by any.
 */
#ifndef CONFIG_CONFIG_H
#define CONFIG_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "config/address.h"
#include "config/network.h"

#define CONFIG_FILE_MAX (1024 * 1024) /* bytes of a config file */
#define CONFIG_LIST_MAX 65536         /* entries of one list */
#define TOKEN_HASH_SIZE 32            /* SHA-256 */
#define CERTIFICATE_NAME_MAX 512      /* "dns:..." and the like */

/* All durations are milliseconds, all sizes bytes. */

struct strings {
	char **at;
	size_t n;
};

struct addresses {
	struct address *at;
	size_t n;
};

struct networks {
	struct network *at;
	size_t n;
};

/* A PROXY header to a target, by its version; its value is that. */
enum proxy_sent { PROXY_SENT_NONE, PROXY_SENT_V1, PROXY_SENT_V2 };

/* Which of several tunnels that offer a service. */
enum balance {
	BALANCE_PRIMARY,       /* the instance that came first; the others stand by */
	BALANCE_LEAST_STREAMS, /* the one with the fewest streams */
	BALANCE_STICKY,        /* by who the client is: the same one each time */
};

/* The same for all programs. Values are those of relay/log.h (config/ may not include it). */
enum config_log_level { CONFIG_LOG_ERROR, CONFIG_LOG_WARNING, CONFIG_LOG_INFO, CONFIG_LOG_DEBUG };
enum config_log_format { CONFIG_LOG_TEXT, CONFIG_LOG_JSON };
enum config_log_target { CONFIG_LOG_AUTO, CONFIG_LOG_STDERR, CONFIG_LOG_JOURNAL };

struct log_config {
	int level;  /* info */
	int format; /* text */
	int target; /* auto */
};

/* The admin socket: who may connect to it may change things. */
struct admin_config {
	struct address address; /* unix; NONE: there is none */
	char *owner, *group;	/* of a path: a name or a number; NULL: the process's */
	char *mode;		/* octal, nothing for others; "0600" by default */
};

/* Where audit records go. */
enum config_audit_target {
	CONFIG_AUDIT_AUTO, /* file, if there is one; or the journal, if the log goes there */
	CONFIG_AUDIT_OFF,
	CONFIG_AUDIT_JOURNAL,
	CONFIG_AUDIT_FILE,
};

struct audit_config {
	int target;           /* auto */
	char *file;           /* CONFIG_AUDIT_FILE: its path; AUTO: its path or NULL; else NULL */
	uint64_t start_after; /* 1min: a stream that lasts so long gets a record then, too */
};

struct timeouts_config {
	uint64_t handshake;   /* 10s: until a client has said what it wants, TLS included */
	uint64_t pickup;      /* 10s: parked, waiting for a tunnel */
	uint64_t dial;        /* 5s: one target, all its addresses */
	uint64_t idle;        /* 10min: no byte either way */
	uint64_t half_closed; /* 60s: one direction ended, the other silent */
	uint64_t ping;        /* 5s: between pings in a tunnel */
	uint64_t dead;        /* 10s: a tunnel with nothing received for so long is dead */
	uint64_t drain;       /* 60s: shutting down, for streams to finish */
};

/* ---- attest-relay ---- */

enum door {
	DOOR_TUNNEL = 1 << 0,
	DOOR_SNI = 1 << 1,
	DOOR_CONNECT = 1 << 2,
	DOOR_STATIC = 1 << 3, /* implied by service:, never named in doors: */
	DOOR_WEBSOCKET = 1 << 4,
	DOORS_HTTP = DOOR_CONNECT | DOOR_WEBSOCKET, /* client_ca is for them */
};

/* A PROXY header before all else at a listener, from proxy_networks. */
enum proxy_taken {
	PROXY_TAKEN_NEVER,    /* its bytes are the client's */
	PROXY_TAKEN_OPTIONAL, /* others may come, without one */
	PROXY_TAKEN_REQUIRED, /* nobody else may come, and nobody without one */
};

/* Of clients at DOORS_HTTP, where there is a client_ca; agents have their credentials. */
enum certificates_wanted {
	CERTIFICATES_REQUIRED, /* who shows none is refused */
	CERTIFICATES_OPTIONAL, /* he may do what anybody may, or what clients: say */
};

struct listener_config {
	char *name;
	struct address address; /* tcp, unix, vsock, fd */
	unsigned doors;         /* of enum door */
	char *service;          /* DOOR_STATIC: the service, else NULL */
	char *client_ca;  /* PEM: whose certificates clients and agents may show; NULL: none */
	char *client_crl; /* PEM: those of them that are revoked; NULL: none is asked for */
	int client_certificates;        /* enum certificates_wanted, at DOORS_HTTP */
	int proxy_protocol;             /* enum proxy_taken; off */
	struct networks proxy_networks; /* whose PROXY headers are taken; n == 0 if off */
	int line;                       /* where it stands in the file */
};

struct token_hash {
	uint8_t bytes[TOKEN_HASH_SIZE];
};

/* How an owner's agents show whose they are: one of hash and name. */
struct credential_config {
	struct token_hash hash; /* of a token */
	char *name;       /* in a certificate: "dns:...", "uri:..." or "email:..."; NULL: a token */
	char *label;      /* for logs and audit; NULL: none */
	uint64_t expires; /* seconds since 1970; 0: never */
	int line;
};

struct credentials_config {
	struct credential_config *at;
	size_t n;
};

/*
 * What one of many may have at a time. Of a general one each key has a default; of one that is an
 * owner's or client's own, 0 stands for the general one's. Not all keys are for all.
 */
struct tenant_limits {
	uint64_t connections; /* streams in HTTP/2 connections, too */
	uint64_t handshakes;  /* connections that have not said yet what they want */
	uint64_t tunnels;
	uint64_t streams;
	uint64_t parked;
	uint64_t opens_per_second; /* streams */
	uint64_t bytes_per_second; /* both ways together; 0: no limit */
	uint64_t memory;           /* bytes that wait for readers, in sessions and streams */
};

struct owner_config {
	char *name;                                     /* one label */
	struct credentials_config tokens, certificates; /* one of all at least */
	struct strings services;                        /* labels it may offer; n == 0: any */
	struct tenant_limits limits;                    /* its own, where not 0 */
	int line;
};

/*
 * Who may open streams to what. Each of the lists that is not empty must hold something the client
 * is; at least one of them does.
 */
struct client_config {
	char *name;
	struct strings certificates; /* "dns:...", "uri:...", "email:..." */
	struct networks networks;    /* where it comes from */
	struct strings listeners;    /* by their names */
	struct strings uids, cids;   /* at a Unix socket; by vsock: numbers and ranges */
	struct strings services;     /* SERVICE.OWNER, *.OWNER, SERVICE.*, or * */
	uint64_t expires;            /* seconds since 1970; 0: never */
	struct tenant_limits limits; /* its own, where not 0 */
	int line;
};

/* What a target that is an address is asked, to see whether it is up. */
enum check_kind {
	CHECK_NONE, /* nothing: only clients' dials tell */
	CHECK_TCP,  /* it takes a connection */
	CHECK_TLS,  /* and completes a TLS handshake; whose certificate it shows is not looked at */
};

struct check_config {
	int kind;          /* enum check_kind; off */
	uint64_t every;    /* 5s */
	char *server_name; /* CHECK_TLS: asked for; NULL: no name is sent */
};

struct service_config {
	char *name; /* SERVICE.OWNER; the owner exists, or all its targets are addresses */
	struct strings hostnames;  /* for SNI, besides NAME.<domain>; unique over all services */
	struct addresses targets;  /* tunnel, tcp, unix, vsock, hybrid; default: [tunnel] */
	int balance;               /* enum balance, among tunnels; primary */
	struct check_config check; /* of targets that are addresses */
	uint64_t idle;             /* 0: timeouts.idle */
	int proxy_protocol;        /* enum proxy_sent, to targets that are addresses; off */
	int line;
};

/* Certificates for owners' agents, by a CA of the relay's own. Off: ca is NULL. */
struct enrolment_config {
	char *ca, *key;             /* PEM; both or neither */
	char *folder;               /* what is kept of codes and certificates */
	uint64_t certificate_valid; /* 90d */
	uint64_t code_valid;        /* 15min */
};

/* Sources that fail to authenticate. */
struct penalties_config {
	uint64_t failures;  /* 10, then it is blocked; 0: never */
	uint64_t half_life; /* 60s: after it, a failure counts half */
	uint64_t block;     /* 10s: the first; each further one twice as long, up to ... */
	uint64_t block_max; /* 10min */
	struct networks exempt;
};

struct relay_limits {
	uint64_t connections;        /* 16384: clients and tunnels together, and clients' streams */
	uint64_t handshakes;         /* 4096: of these, those that have not said what they want */
	uint64_t parked;             /* 1024: streams waiting for a tunnel */
	uint64_t tunnels;            /* 1024 */
	uint64_t memory;             /* 1GiB */
	uint64_t streams_per_tunnel; /* 4096 at a time */
	uint64_t streams_per_session; /* 2^29, then a fresh session takes over; at most 2^30 - 1 */
	uint64_t stream_window;       /* 256KiB: unread bytes of one stream */
	uint64_t session_window;      /* 32MiB: unread bytes of all streams of a tunnel */
	struct tenant_limits per_source, per_owner, per_client;
};

struct relay_config {
	unsigned workers; /* 0: auto, one per core */
	char *domain;     /* or NULL: then no SERVICE.OWNER.<domain> */
	struct {
		char *certificate; /* PEM chain, or NULL */
		char *key;
	} tls;
	struct address metrics; /* tcp or unix; NONE: none */
	struct address status;	/* tcp on loopback, or unix; NONE: none */
	struct admin_config admin;
	struct log_config log;
	struct audit_config audit;
	struct listener_config *listeners;
	size_t n_listeners;
	struct owner_config *owners;
	size_t n_owners;
	struct service_config *services;
	size_t n_services;
	struct client_config *clients; /* n_clients == 0: any client may open any service */
	size_t n_clients;
	struct enrolment_config enrolment;
	struct timeouts_config timeouts;
	struct relay_limits limits;
	struct penalties_config penalties;
};

/* ---- attest-tunnel ---- */

enum dial_mode {
	DIAL_LAZY,  /* first-byte: the target is dialled when the client's first byte is there */
	DIAL_EAGER, /* for protocols in which the server speaks first */
};

enum transport { TRANSPORT_AUTO, TRANSPORT_DIRECT, TRANSPORT_WEBSOCKET };

#define PROXY_NONE "none" /* no proxy, whatever the environment says */

struct offer_config {
	char *name;            /* one label; the owner is the credential's */
	struct address target; /* tcp, unix, vsock, hybrid */
	int dial;              /* enum dial_mode; first-byte */
	int proxy_protocol;    /* enum proxy_sent; off */
	struct strings allow;  /* "client:NAME", "dns:...", ...; n == 0: whom the relay lets in */
	uint64_t idle;         /* 0: timeouts.idle */
	int line;
};

/* A local listener: connections to it become streams to a service behind a relay. */
struct local_config {
	struct address address; /* tcp on loopback, unix, or fd */
	char *service;          /* SERVICE.OWNER */
	char *mode;             /* octal, of a path; NULL: by the umask */
	int line;
};

struct tunnel_config {
	struct addresses relays; /* tcp or unix; at least one */
	char *server_name;       /* for SNI and verification; NULL: the relay's host */
	char *token_file;        /* with services this or certificate */
	char *ca_file;           /* NULL: the system's CAs */
	char *certificate, *key; /* shown to relays; both or neither */
	char *proxy; /* its URL, without a password; PROXY_NONE; NULL: as the environment says */
	char *proxy_credentials_file; /* USER:PASSWORD; NULL: none */
	char *proxy_ca_file;          /* for an https proxy; NULL: the system's CAs */
	struct strings no_proxy; /* relays that are reached without; n > 0: instead of NO_PROXY */
	int transport;		 /* enum transport; auto */
	char *instance;		 /* stable name of this agent; NULL: from machine-id and offers */
	struct address metrics; /* tcp or unix; NONE: none */
	struct admin_config admin;
	struct log_config log;
	struct offer_config *services;
	size_t n_services;
	struct local_config *locals;
	size_t n_locals;
	struct timeouts_config timeouts; /* all but pickup are for both: local listeners only */
	struct {
		uint64_t streams;        /* 4096 at a time */
		uint64_t stream_window;  /* 256KiB */
		uint64_t session_window; /* 32MiB */
	} limits;
};

/* ---- loading ---- */

/* What is wrong, all of it: each entry one line "file:line:column: what; what was expected". */
#define CONFIG_ERRORS_MAX 64 /* further ones are counted, not kept */
struct config_errors {
	char **at;
	size_t n;
	size_t more;
};
void config_errors_add(struct config_errors *e, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
void config_errors_print(const struct config_errors *e, FILE *to);
/* All of it in a line, to be freed. NULL: out of memory. */
char *config_errors_join(const struct config_errors *e);
void config_errors_deinit(struct config_errors *e);

/* Reference count 1. NULL: e has at least one entry. */
struct relay_config *relay_config_load(const char *path, struct config_errors *e);
/* The same from memory; name stands for the file in errors. For tests and fuzzers. */
struct relay_config *relay_config_parse(const char *name, const char *text, size_t len,
					struct config_errors *e);
struct relay_config *relay_config_ref(struct relay_config *c);
struct relay_config *relay_config_unref(struct relay_config *c); /* NULL is fine */
/* The first key in which they differ that a running relay cannot change; NULL: none. Static. */
const char *relay_config_differs(const struct relay_config *a, const struct relay_config *b);
/* As they would be written; what follows from other settings (timeouts.idle) is not looked at. */
bool relay_config_same_service(const struct service_config *a, const struct service_config *b);
/* One that lives on without its config. */
struct service_config *service_config_copy(const struct service_config *s);
struct service_config *service_config_free(struct service_config *s); /* NULL is fine */
struct listener_config *listener_config_copy(const struct listener_config *l);
struct listener_config *listener_config_free(struct listener_config *l); /* NULL is fine */
/* One of the words of a setting, "log.level". 0 or -EINVAL and *why what was expected. */
int relay_config_set_word(struct relay_config *c, const char *key, const char *text, char **why);
/* Effective values as YAML that loads again to the same. Token hashes are shown: only hashes. */
void relay_config_dump(const struct relay_config *c, FILE *to);

/*
 * attest-tunnel's flags fill the same struct as its file does: start from tunnel_config_new
 * (defaults), or from a file; change it; then tunnel_config_check.
 */
struct tunnel_config *tunnel_config_new(void);
struct tunnel_config *tunnel_config_load(const char *path, struct config_errors *e);
struct tunnel_config *tunnel_config_parse(const char *name, const char *text, size_t len,
					  struct config_errors *e);
/* What a file may leave out but a run may not (relays, something to do, ...). 0 or -EINVAL. */
int tunnel_config_check(const struct tunnel_config *c, const char *name, struct config_errors *e);
/* "kbs=tcp:127.0.0.1:8080" or "kbs=tcp:127.0.0.1:8080,dial=eager,...". 0 or -EINVAL and *why. */
int tunnel_config_add_service(struct tunnel_config *c, const char *text, char **why);
/* no_proxy: entries between commas, one at least, instead of those there are. The same. */
int tunnel_config_set_no_proxy(struct tunnel_config *c, const char *list, char **why);
/* One of the words of a setting, "log.level". 0 or -EINVAL and *why what was expected. */
int tunnel_config_set_word(struct tunnel_config *c, const char *key, const char *text, char **why);
/* "tcp:127.0.0.1:9000=service:kbs.acme". The same. */
int tunnel_config_add_local(struct tunnel_config *c, const char *text, char **why);
struct tunnel_config *tunnel_config_free(struct tunnel_config *c); /* NULL is fine */
void tunnel_config_dump(const struct tunnel_config *c, FILE *to);

/* Looked up without case; NULL: none. By host name: the hostnames only, not NAME.<domain>. */
const struct service_config *relay_config_service(const struct relay_config *c, const char *name);
const struct service_config *relay_config_hostname(const struct relay_config *c, const char *host);
const struct listener_config *relay_config_listener(const struct relay_config *c, const char *name);
const struct owner_config *relay_config_owner(const struct relay_config *c, const char *name);

#endif
