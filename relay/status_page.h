/*
 * status_page: the relay's state as a web page for its operator, read-only.
 *
 * Whole without JavaScript; with it the page follows the relay. Nothing is loaded from elsewhere.
 * Routes for the table of admin.h, scope ADMIN_READ; user is the struct daemon.
 */
#ifndef RELAY_STATUS_PAGE_H
#define RELAY_STATUS_PAGE_H

struct admin_request;

void status_page_html(struct admin_request *r, void *daemon);    /* GET / */
void status_page_css(struct admin_request *r, void *daemon);     /* GET /status.css */
void status_page_js(struct admin_request *r, void *daemon);      /* GET /status.js */
void status_page_history(struct admin_request *r, void *daemon); /* GET /v1/history */

#endif
