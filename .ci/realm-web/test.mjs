// Runs an unchanged realm-web against a server that has the built-in functions and access tokens
// of at most a few seconds.
//
//   BASE_URL=http://127.0.0.1:9090 APP_ID=my-app-abcde ACCESS_TTL=2 node test.mjs
//
// Each step prints its name before it runs; the first failure ends the script with status 1.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import RealmWeb from "realm-web";

const { App, Credentials, BSON, MongoDBRealmError } = RealmWeb;
const { BASE_URL, APP_ID, ACCESS_TTL = "2" } = process.env;
assert.ok(BASE_URL && APP_ID, "BASE_URL and APP_ID must be set");

const email = `ada-${randomUUID()}@example.org`;
const password = "hunter22";
const app = new App({ id: APP_ID, baseUrl: BASE_URL });

/** Expects a rejection by the server and checks what it says. */
async function refused(promise, statusCode, errorCode, error) {
  const thrown = await promise.then(
    () => assert.fail(`expected ${statusCode} ${errorCode}`),
    (reason) => reason,
  );
  assert.ok(thrown instanceof MongoDBRealmError, String(thrown));
  assert.equal(thrown.statusCode, statusCode, thrown.message);
  assert.equal(thrown.errorCode, errorCode, thrown.message);
  if (error) {
    assert.equal(thrown.error, error);
  }
  assert.ok(thrown.link.startsWith(`${BASE_URL}/groups/`), thrown.link);
  assert.match(thrown.link, /logs\?co_id=[0-9a-f]{24}$/);
}

/** Asks without realm-web. */
function ask(method, path, token) {
  const headers = { Authorization: `Bearer ${token}` };
  return fetch(`${BASE_URL}/api/client/v2.0${path}`, { method, headers });
}

const steps = {
  async "registers once"() {
    await app.emailPasswordAuth.registerUser({ email, password });
    assert.equal(app.currentUser, null);
    await refused(
      app.emailPasswordAuth.registerUser({ email, password }),
      409,
      "AccountNameInUse",
      "name already in use",
    );
    await refused(
      app.emailPasswordAuth.registerUser({ email: "other", password: "short" }),
      400,
      "InvalidParameter",
      "password must be between 6 and 128 characters",
    );
  },

  async "refuses a wrong password"() {
    const wrong = Credentials.emailPassword(email, "wrong password");
    await refused(app.logIn(wrong), 401, "InvalidPassword");
    assert.equal(app.currentUser, null);
  },

  async "logs in with email and password"() {
    const user = await app.logIn(Credentials.emailPassword(email, password));
    assert.match(user.id, /^[0-9a-f]{24}$/);
    assert.match(user.deviceId, /^[0-9a-f]{24}$/);
    assert.equal(user.state, "active");
    assert.equal(user.isLoggedIn, true);
    assert.equal(user.profile.email, email);
    assert.equal(user.identities.length, 1);
    assert.equal(user.identities[0].providerType, "local-userpass");
    assert.deepEqual(user.customData, {});
    assert.equal(app.currentUser.id, user.id);
  },

  async "refuses a wrong password while somebody is logged in"() {
    const wrong = Credentials.emailPassword(email, "wrong password");
    await refused(app.logIn(wrong), 401, "InvalidPassword");
    assert.equal(app.currentUser.isLoggedIn, true);
  },

  async "calls functions"() {
    const { functions, id } = app.currentUser;
    assert.equal(await functions.sum(1, 2, 39), 42);
    assert.equal(await functions.sum(1, 0.5), 1.5);
    const long = BSON.Long.fromString("4294967296");
    assert.equal(await functions.sum(long, 1), 4294967297);
    assert.equal(await functions.echo("text"), "text");
    assert.equal(await functions.echo(null), null);
    const value = {
      id: new BSON.ObjectId("5f0000000000000000000000"),
      at: new Date(0),
      list: [1, "two", { three: true }],
    };
    assert.deepEqual(await functions.echo(value), value);
    const me = await functions.whoami();
    assert.equal(me.user_id, id);
    assert.equal(me.identities[0].provider_type, "local-userpass");
    assert.equal(me.data.email, email);
  },

  async "learns of functions that are not there or fail"() {
    const { functions } = app.currentUser;
    await refused(functions.nope(), 404, "FunctionNotFound", "function not found: 'nope'");
    await refused(functions.sum("one"), 400, "FunctionExecutionError");
    const mongo = app.currentUser.mongoClient("mongodb-atlas").db("a").collection("b");
    await refused(mongo.find({}), 404, "ServiceNotFound");
  },

  async "refreshes an expired access token by itself"() {
    const user = app.currentUser;
    const before = user.accessToken;
    await sleep((Number(ACCESS_TTL) + 1) * 1000);
    assert.equal((await ask("GET", "/auth/profile", before)).status, 401);
    assert.equal(await user.functions.sum(20, 22), 42);
    assert.notEqual(user.accessToken, before);
    await user.refreshProfile();
    assert.equal(user.profile.email, email);
  },

  async "gives the same user for the same account"() {
    const { id } = app.currentUser;
    const user = await app.logIn(Credentials.emailPassword(email, password));
    assert.equal(user.id, id);
  },

  async "keeps an anonymous user beside the first"() {
    const first = app.currentUser;
    const anonymous = await app.logIn(Credentials.anonymous());
    assert.notEqual(anonymous.id, first.id);
    assert.equal(anonymous.identities[0].providerType, "anon-user");
    assert.equal(app.currentUser.id, anonymous.id);
    assert.equal((await anonymous.functions.whoami()).user_id, anonymous.id);
    const again = await app.logIn(Credentials.anonymous());
    assert.equal(again.id, anonymous.id);
    const other = await app.logIn(Credentials.anonymous(false));
    assert.notEqual(other.id, anonymous.id);
    await app.removeUser(other);
    await app.removeUser(anonymous);
    assert.equal(app.currentUser.id, first.id);
  },

  async "ends a session for good"() {
    const user = app.currentUser;
    const { refreshToken } = user;
    assert.equal((await ask("POST", "/auth/session", refreshToken)).status, 201);
    await user.logOut();
    assert.equal(user.state, "logged-out");
    assert.equal(app.currentUser, null);
    const answer = await ask("POST", "/auth/session", refreshToken);
    assert.equal(answer.status, 401);
    assert.equal(answer.headers.get("content-type"), "application/json");
    const { error, error_code } = await answer.json();
    assert.equal(error_code, "InvalidSession");
    assert.equal(error, "invalid session: failed to find refresh token");
  },

  async "drops the tokens of a session that was revoked"() {
    const user = await app.logIn(Credentials.emailPassword(email, password));
    assert.equal((await ask("DELETE", "/auth/session", user.refreshToken)).status, 204);
    await sleep((Number(ACCESS_TTL) + 1) * 1000);
    await refused(user.functions.sum(1), 401, "InvalidSession");
    assert.equal(user.state, "logged-out");
  },

  async "learns that an app is not there"() {
    const stranger = new App({ id: "no-such-app", baseUrl: BASE_URL });
    await assert.rejects(
      stranger.logIn(Credentials.anonymous()),
      /cannot find app using Client App ID 'no-such-app'/,
    );
  },
};

// Nothing here takes long, so whatever does is stuck.
setTimeout(() => {
  console.error("timed out");
  process.exit(1);
}, 60_000).unref();

for (const [name, step] of Object.entries(steps)) {
  console.log(name);
  await step();
}
console.log(`${Object.keys(steps).length} steps passed`);
