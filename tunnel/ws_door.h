/* ws_door: clients at the relay that speak WebSocket, such as browsers. */
#ifndef TUNNEL_WS_DOOR_H
#define TUNNEL_WS_DOOR_H

struct gateway;

/* Puts this side into the gateway, before its threads start. */
void ws_door_install(struct gateway *g);

#endif
