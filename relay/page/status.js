// The status page of attest-relay follows the relay: fetches itself again and puts what differs in
// its place. Elements stay what they are, so focus, scrolling and what is unfolded stay, too.
"use strict";
(() => {
	const EVERY_MS = 5000, PATIENCE_MS = 10000;
	const live = document.getElementById("live");
	const state = document.createElement("p"), pause = document.createElement("button");
	let answered = new Date(), timer = 0, paused = false, asking = null;

	function say(text, stale) {
		document.body.classList.toggle("stale", stale);
		// only what is new, or a screen reader would read it out each time
		if (state.textContent !== text)
			state.textContent = text;
	}

	function putAttributes(old, fresh) {
		for (const { name } of [...old.attributes])
			if (!fresh.hasAttribute(name) && name !== "open")
				old.removeAttribute(name);
		for (const { name, value } of fresh.attributes)
			if (old.getAttribute(name) !== value)
				old.setAttribute(name, value);
	}

	function put(old, fresh) {
		if (old === live)
			return;
		if (old.nodeName !== fresh.nodeName) {
			old.replaceWith(document.importNode(fresh, true));
		} else if (old.nodeType !== Node.ELEMENT_NODE) {
			if (old.data !== fresh.data)
				old.data = fresh.data;
		} else {
			putAttributes(old, fresh);
			const olds = [...old.childNodes], freshes = [...fresh.childNodes];
			freshes.forEach((node, i) => i < olds.length ? put(olds[i], node) :
				old.append(document.importNode(node, true)));
			olds.slice(freshes.length).forEach((node) => node.remove());
		}
	}

	async function ask(signal) {
		const reply = await fetch(location.href, { cache: "no-store", signal });
		if (!reply.ok)
			throw new Error(`status ${reply.status}`);
		const page = new DOMParser().parseFromString(await reply.text(), "text/html");
		// a proxy's log-in, perhaps
		if (!page.getElementById("problems"))
			throw new Error("not this page");
		put(document.querySelector("header"), page.querySelector("header"));
		put(document.querySelector("main"), page.querySelector("main"));
		document.title = page.title;
	}

	async function update() {
		clearTimeout(timer);
		if (asking || paused || document.hidden)
			return;
		asking = new AbortController();
		const patience = setTimeout(() => asking.abort(), PATIENCE_MS);
		try {
			await ask(asking.signal);
			answered = new Date();
			say(`Updates every ${EVERY_MS / 1000} seconds.`, false);
		} catch {
			const since = answered.toISOString().slice(11, 19);
			document.title = "(no answer) attest-relay";
			say(`\u2717 No answer since ${since} UTC: what stands here is of then.`, true);
		}
		clearTimeout(patience);
		asking = null;
		if (paused)
			say("Paused.", false);
		timer = setTimeout(update, EVERY_MS);
	}

	state.setAttribute("role", "status");
	pause.type = "button";
	pause.textContent = "Pause";
	pause.addEventListener("click", () => {
		paused = !paused;
		pause.textContent = paused ? "Resume" : "Pause";
		say(paused ? "Paused." : "", false);
		update();
	});
	live.append(state, pause);
	say(`Updates every ${EVERY_MS / 1000} seconds.`, false);
	document.addEventListener("visibilitychange", update);
	timer = setTimeout(update, EVERY_MS);
})();
