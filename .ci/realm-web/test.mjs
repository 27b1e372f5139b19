// Runs an unchanged realm-web against a server that tests/realm_web.rs sets up: with the built-in
// functions and some more, access tokens of at most a few seconds, and JWT_SECRET for custom tokens.
//
// Each step prints its name before it runs; the first failure ends the script with status 1.

import assert from "node:assert/strict";
import { createHmac, randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import RealmWeb from "realm-web";

const { App, Credentials, BSON, MongoDBRealmError } = RealmWeb;
const { BASE_URL, APP_ID, ACCESS_TTL = "2", JWT_SECRET } = process.env;
assert.ok(BASE_URL && APP_ID && JWT_SECRET, "BASE_URL, APP_ID and JWT_SECRET must be set");

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

/** Makes a token as an app's own backend would. */
function jwt(claims, secret = JWT_SECRET) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const exp = Math.floor(Date.now() / 1000) + 600;
  const text = `${part({ alg: "HS256", typ: "JWT" })}.${part({ aud: APP_ID, exp, ...claims })}`;
  return `${text}.${createHmac("sha256", secret).update(text).digest("base64url")}`;
}

/** Returns what was mailed last to an address, as the server's test function tells it. */
async function mailed(address) {
  const user = await app.logIn(Credentials.anonymous(false));
  const mail = await user.functions.mailed(address);
  await app.removeUser(user);
  return mail;
}

const names = (user) => user.identities.map(({ providerType }) => providerType);

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
    const mongo = app.currentUser.mongoClient("no-such-service").db("a").collection("b");
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

  async "confirms an address with its token"() {
    const { emailPasswordAuth } = app;
    const address = `pending-${randomUUID()}@example.org`;
    const credentials = Credentials.emailPassword(address, password);
    await emailPasswordAuth.registerUser({ email: address, password });
    await refused(app.logIn(credentials), 401, "AuthError");
    await emailPasswordAuth.retryCustomConfirmation({ email: address });
    const { token, tokenId } = await mailed(address);
    await refused(
      emailPasswordAuth.confirmUser({ token: "bad", tokenId }),
      400,
      "UserpassTokenInvalid",
      "userpass token is expired or invalid",
    );
    await emailPasswordAuth.confirmUser({ token, tokenId });
    const user = await app.logIn(credentials);
    assert.equal(user.profile.email, address);
    await refused(emailPasswordAuth.confirmUser({ token, tokenId }), 400, "UserAlreadyConfirmed");
    await app.deleteUser(user);
  },

  async "learns what is wrong with confirmations and resets"() {
    const { emailPasswordAuth } = app;
    const bad = { token: "bad", tokenId: "bad" };
    await refused(emailPasswordAuth.confirmUser(bad), 400, "BadRequest", "invalid token data");
    await refused(
      emailPasswordAuth.resetPassword({ ...bad, password }),
      400,
      "BadRequest",
      "invalid token data",
    );
    const nobody = { email: "nobody@example.org" };
    const unknown = [404, "UserNotFound", "user not found"];
    await refused(emailPasswordAuth.resendConfirmationEmail(nobody), ...unknown);
    await refused(emailPasswordAuth.retryCustomConfirmation(nobody), ...unknown);
    await refused(emailPasswordAuth.sendResetPasswordEmail(nobody), ...unknown);
    await refused(
      emailPasswordAuth.resendConfirmationEmail({ email }),
      400,
      "UserAlreadyConfirmed",
      "already confirmed",
    );
    const failing = `fail-${randomUUID()}@example.org`;
    await refused(
      emailPasswordAuth.registerUser({ email: failing, password }),
      400,
      "BadRequest",
      `failed to confirm user "${failing}"`,
    );
    await refused(
      emailPasswordAuth.callResetPasswordFunction({ email, password }, "argument"),
      400,
      undefined,
    );
  },

  async "replaces a password"() {
    const { emailPasswordAuth } = app;
    const user = await app.logIn(Credentials.emailPassword(email, password));
    await emailPasswordAuth.sendResetPasswordEmail({ email });
    const { token, tokenId } = await mailed(email);
    await emailPasswordAuth.resetPassword({ token, tokenId, password: "hunter23" });
    await refused(app.logIn(Credentials.emailPassword(email, password)), 401, "InvalidPassword");
    assert.equal((await ask("POST", "/auth/session", user.refreshToken)).status, 401);
    await emailPasswordAuth.sendResetPasswordEmail({ email });
    await emailPasswordAuth.resetPassword({ ...(await mailed(email)), password });
    assert.equal((await app.logIn(Credentials.emailPassword(email, password))).id, user.id);
  },

  async "links identities to an anonymous user"() {
    const address = `link-${randomUUID()}@example.org`;
    const credentials = Credentials.emailPassword(address, password);
    await app.emailPasswordAuth.registerUser({ email: address, password });
    const user = await app.logIn(Credentials.anonymous(false));
    const before = user.accessToken;
    await user.linkCredentials(credentials);
    assert.notEqual(user.accessToken, before);
    assert.deepEqual(names(user), ["anon-user", "local-userpass"]);
    assert.equal(user.profile.email, address);
    const payload = { name: address };
    await user.linkCredentials(Credentials.function(payload));
    await user.linkCredentials(Credentials.function(payload));
    await user.linkCredentials(Credentials.jwt(jwt({ sub: address, nick: "ada" })));
    const all = ["anon-user", "local-userpass", "custom-function", "custom-token"];
    assert.deepEqual(names(user), all);
    assert.equal((await app.logIn(credentials)).id, user.id);
    assert.equal((await app.logIn(Credentials.function(payload))).id, user.id);
    const again = await app.logIn(Credentials.jwt(jwt({ sub: address, nick: "eda" })));
    assert.equal(again.id, user.id);
    assert.equal(again.profile.nick, "eda");
    assert.deepEqual(names(again), all);
  },

  async "refuses to link and does not go on for ever"() {
    const user = app.currentUser;
    const mine = Credentials.emailPassword(email, password);
    await refused(user.linkCredentials(mine), 409, "IdentityAlreadyInUse");
    const wrong = Credentials.emailPassword(email, "wrong password");
    await refused(user.linkCredentials(wrong), 401, "InvalidPassword");
    await refused(user.linkCredentials(Credentials.apiKey("nope")), 401, "AuthError");
    await refused(user.linkCredentials(Credentials.jwt("a.b.c")), 401, "AuthError");
    const anonymous = Credentials.anonymous(false);
    await refused(user.linkCredentials(anonymous), 400, "BadRequest", "invalid user link request");
    const address = `second-${randomUUID()}@example.org`;
    await app.emailPasswordAuth.registerUser({ email: address, password });
    const second = Credentials.emailPassword(address, password);
    await refused(user.linkCredentials(second), 400, "BadRequest");
    assert.equal(user.isLoggedIn, true);
  },

  async "switches between users"() {
    const first = app.currentUser;
    const second = await app.logIn(Credentials.emailPassword(email, password));
    assert.notEqual(second.id, first.id);
    assert.equal((await app.currentUser.functions.whoami()).user_id, second.id);
    app.switchUser(first);
    assert.equal((await app.currentUser.functions.whoami()).user_id, first.id);
    app.switchUser(second);
    assert.equal(app.currentUser.id, second.id);
  },

  async "makes API keys and logs in with them"() {
    const { apiKeys, id } = app.currentUser;
    assert.deepEqual(await apiKeys.fetchAll(), []);
    const key = await apiKeys.create("my-key");
    assert.match(key._id, /^[0-9a-f]{24}$/);
    assert.equal(key.key.length, 64);
    assert.equal(key.disabled, false);
    const { key: secret, ...shown } = key;
    assert.deepEqual(await apiKeys.fetch(key._id), shown);
    assert.deepEqual(await apiKeys.fetchAll(), [shown]);
    await refused(apiKeys.create("my-key"), 409, "APIKeyAlreadyExists");
    await refused(apiKeys.create("not a name"), 400, "InvalidParameter");
    const nobodys = "5f0000000000000000000000";
    await refused(apiKeys.fetch(nobodys), 404, "APIKeyNotFound", "API key not found");

    const credentials = Credentials.apiKey(secret);
    const user = await app.logIn(credentials);
    assert.equal(user.id, id);
    assert.deepEqual(names(user), ["local-userpass", "api-key"]);
    await refused(user.apiKeys.delete(key._id), 403, undefined);
    await user.apiKeys.disable(key._id);
    assert.equal((await user.apiKeys.fetch(key._id)).disabled, true);
    await refused(app.logIn(credentials), 401, "AuthError");
    await user.apiKeys.enable(key._id);
    await app.logIn(credentials);
    const other = await app.logIn(Credentials.emailPassword(email, password));
    await other.apiKeys.delete(key._id);
    await refused(app.logIn(credentials), 401, "AuthError");
  },

  async "logs in with tokens and functions"() {
    const sub = randomUUID();
    const user = await app.logIn(Credentials.jwt(jwt({ sub, nick: "ada" })));
    assert.deepEqual(names(user), ["custom-token"]);
    assert.equal(user.identities[0].id, sub);
    assert.equal(user.profile.nick, "ada");
    for (const bad of [
      jwt({ sub, nick: "ada" }, "another secret"),
      jwt({ sub, nick: "ada", aud: "another-app" }),
      jwt({ sub, nick: "ada", exp: 1 }),
      jwt({ sub }),
    ]) {
      await refused(app.logIn(Credentials.jwt(bad)), 401, "AuthError", "unauthorized");
    }
    const name = randomUUID();
    const other = await app.logIn(Credentials.function({ name }));
    assert.deepEqual(names(other), ["custom-function"]);
    assert.equal(other.profile.name, name);
    await refused(app.logIn(Credentials.function({})), 401, "AuthError", "who are you?");
    await refused(app.logIn(Credentials.facebook("token")), 404, "AuthProviderNotFound");
  },

  async "logs in with a server API key"() {
    const user = await app.logIn(Credentials.apiKey("a-server-key-for-tests"));
    assert.equal(user.profile.type, undefined);
    assert.equal(user.profile.name, "server");
    await app.removeUser(user);
  },

  async "gets custom data with the next access token"() {
    const user = await app.logIn(Credentials.emailPassword(email, password));
    assert.deepEqual(user.customData, {});
    await user.functions.set_custom_data({ likes: "tea" });
    assert.deepEqual(user.customData, {});
    assert.deepEqual(await user.refreshCustomData(), { likes: "tea" });
    assert.deepEqual(user.customData, { likes: "tea" });
    assert.deepEqual(await user.functions.custom_data(), { likes: "tea" });
  },

  async "calls functions of services"() {
    const mongo = app.currentUser.mongoClient("mongodb-atlas").db("a").collection("b");
    assert.equal(await mongo.count({}), 3);
    await refused(mongo.insertOne({}), 404, "ServiceCommandNotFound");
  },

  async "deletes a user"() {
    const user = app.currentUser;
    const { accessToken, refreshToken, id } = user;
    await app.deleteUser(user);
    assert.ok(app.currentUser?.id !== id);
    assert.equal((await ask("GET", "/auth/profile", accessToken)).status, 401);
    assert.equal((await ask("POST", "/auth/session", refreshToken)).status, 401);
    const credentials = Credentials.emailPassword(email, password);
    await refused(app.logIn(credentials), 401, "InvalidPassword");
    await app.emailPasswordAuth.registerUser({ email, password });
    assert.notEqual((await app.logIn(credentials)).id, id);
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
