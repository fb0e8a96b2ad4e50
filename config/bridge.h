/*
 * bridge: qgs-bridge's config, typed. Read from YAML by the tables of schema_bridge.c, strict.
 *
 * All durations are milliseconds, all sizes bytes. A loaded config never changes. Thread: one.
 */
#ifndef CONFIG_BRIDGE_H
#define CONFIG_BRIDGE_H

#include "config/config.h"

/* Which side connects the socket of a listener. */
enum socket_role {
	SOCKET_LISTEN,	/* we listen, guests or their VMM connect */
	SOCKET_CONNECT, /* the VMM listens (a QEMU chardev with server=on): we connect to it */
};

/* "listeners" in the file: where guests, or the VMM for them, come in. */
struct entrance_config {
	char *name;
	/*
	 * tcp, unix, vsock, hybrid, fd. The path of unix and hybrid may have one component with
	 * '*' in it: then one socket for each folder that matches, for as long as it is there.
	 */
	struct address address;
	int socket;    /* enum socket_role; SOCKET_CONNECT for unix and hybrid only */
	char *forward; /* NULL: to QGS; "service:NAME.OWNER", or "by-vm": what vms: says */
	/* Of Unix sockets that we make; of all others NULL: */
	char *owner, *group; /* a name or a number; NULL: the process's own */
	char *mode;	     /* octal, "0660" by default */
	char *directory_mode; /* of a folder that had to be made, "0755" by default */
	char *selinux;	      /* label of the socket, or NULL: the policy's */
	char *netns;	      /* tcp, vsock: path of the network namespace to listen in, or NULL */
	int line;	      /* where it stands in the file; 0: a flag's */
};

enum rule_action { RULE_ALLOW, RULE_DENY };

/*
 * Who may use what: the first rule of which all that is said holds decides. Without rules all may;
 * with rules, who matches none may not. Texts but cid, uid, gid are shell patterns ('*', '?').
 */
struct rule_config {
	int action;	/* enum rule_action; required */
	char *listener; /* its name */
	char *vm;	/* who.h: "cid:42", "pod:...", "domain:...", "name:..." */
	char *cid;	/* "42", or "40-49" */
	char *uid, *gid;
	char *pod;    /* Kubernetes pod uid */
	char *domain; /* libvirt domain */
	char *label;  /* SELinux */
	int line;
};

/*
 * Which service a VM's streams go to (listeners with forward: by-vm). All that is said must hold;
 * the first that matches counts.
 */
struct vm_config {
	char *listener; /* its name */
	char *vm;	/* as in rules, exact */
	char *cid;	/* a number or a range */
	char *path;	/* of the Unix or hybrid socket, exact */
	uint64_t port;	/* of the TCP, vsock or hybrid listener; 0: any */
	char *service;	/* SERVICE.OWNER; required */
	int line;
};

enum framing {
	FRAMING_QGS,  /* whole requests and replies, 4-byte length first */
	FRAMING_NONE, /* bytes as they come; dialled at the first one */
};

struct qgs_config {
	struct address address; /* unix, vsock, hybrid; default unix:/var/run/tdx-qgs/qgs.socket */
	int framing;		/* enum framing; qgs */
	uint64_t in_flight;	/* 4: requests in QGS at a time, its threads */
	uint64_t in_flight_per_vm; /* 3: of one VM, so that no VM has all of them */
	uint64_t request_max;	/* 4KiB, at most 1MiB: QGS up to 1.25 reads no more and hangs */
	uint64_t reply_max;	/* 1MiB */
	uint64_t stuck_after;	/* 25s without an answer */
	uint64_t stuck_count;	/* 3 such in a row: wedged */
	struct strings stuck_command; /* program and arguments, run when it becomes wedged */
};

/* The leg to the boundary relay. */
struct leg_config {
	struct addresses addresses; /* tcp or unix; tried in order; none: no listener may forward */
	char *server_name;	    /* as in tunnel.yaml */
	char *ca_file;		    /* NULL: the system's CAs */
	char *certificate, *key;    /* the node's; both or neither */
	uint64_t connections;	    /* 2: sessions at a time */
	uint64_t streams;	    /* 1024: at a time in a session */
	uint64_t stream_window;	    /* 256KiB */
	uint64_t session_window;    /* 32MiB */
};

struct bridge_timeouts {
	struct timeouts_config common; /* handshake, pickup, dial, idle, half_closed, ping, dead,
					* drain (35s: QGS' 30 s and a margin) */
	uint64_t request; /* 5s: from accept to a whole request */
	uint64_t queue;	  /* 20s: waiting for QGS */
	uint64_t reply;	  /* 10s: for the client to take its reply */
};

struct bridge_limits {
	uint64_t connections;	/* 2048: from guests, all together */
	uint64_t connections_per_vm; /* 128 */
	uint64_t queue_per_vm;	/* 64: whole requests waiting */
	uint64_t rate_per_vm;	/* 100: requests a second, on average; more wait */
	uint64_t burst_per_vm;	/* 200: ... and so many at once */
	uint64_t vms;		/* 1024: known at a time; folders of one pattern */
	uint64_t vm_labels;	/* 256: VMs with metrics of their own; others are "other" */
};

struct bridge_config {
	struct log_config log;
	struct address metrics; /* tcp or unix; NONE: none */
	struct admin_config admin;
	struct entrance_config *listeners;
	size_t n_listeners;
	struct qgs_config qgs;
	struct leg_config relay;
	struct rule_config *rules;
	size_t n_rules;
	struct vm_config *vms;
	size_t n_vms;
	char *vms_dir; /* of drop-ins NAME.yaml, or NULL */
	struct bridge_timeouts timeouts;
	struct bridge_limits limits;
	unsigned refs; /* of bridge_config_ref; the loader's own is the first */
};

/* A drop-in: what one VM adds. Keys vms and listeners, as in the main file; nothing else. */
struct vm_file {
	struct vm_config *vms;
	size_t n_vms;
	struct entrance_config *listeners;
	size_t n_listeners;
};

/* Defaults; what flags fill. */
struct bridge_config *bridge_config_new(void);
/* NULL: e has at least one entry. */
struct bridge_config *bridge_config_load(const char *path, struct config_errors *e);
struct bridge_config *bridge_config_parse(const char *name, const char *text, size_t len,
					  struct config_errors *e);
struct bridge_config *bridge_config_ref(struct bridge_config *c);
struct bridge_config *bridge_config_unref(struct bridge_config *c); /* NULL is fine */
/*
 * What a file may leave out but a run may not (listeners), and what flags and file must not say
 * together. 0 or -EINVAL.
 */
int bridge_config_check(const struct bridge_config *c, const char *name, struct config_errors *e);
/* --listen ADDRESS: named listener-1, listener-2...; to QGS. 0 or -EINVAL and *why, allocated. */
int bridge_config_add_listener(struct bridge_config *c, const char *text, char **why);
/* --qgs ADDRESS. The same. */
int bridge_config_set_qgs(struct bridge_config *c, const char *text, char **why);
/* --mode, --group: of the Unix sockets of all --listen so far; -EINVAL if there is none. */
int bridge_config_set_mode(struct bridge_config *c, const char *text, char **why);
int bridge_config_set_group(struct bridge_config *c, const char *text, char **why);
/* One of the words of a setting, "log.level". 0 or -EINVAL and *why what was expected. */
int bridge_config_set_word(struct bridge_config *c, const char *key, const char *text, char **why);
void bridge_config_dump(const struct bridge_config *c, FILE *to);

struct vm_file *vm_file_load(const char *path, struct config_errors *e);
struct vm_file *vm_file_parse(const char *name, const char *text, size_t len,
			      struct config_errors *e);
struct vm_file *vm_file_free(struct vm_file *f); /* NULL is fine */
/* What a drop-in must not say beside its main file (listeners that are there already, forward
 * without a relay). 0 or -EINVAL. */
int vm_file_check(const struct vm_file *f, const struct bridge_config *c, const char *name,
		  struct config_errors *e);

#endif
