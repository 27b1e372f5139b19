-- Applies a commit as a whole. KEYS: head, users, order, used, places, events, lock.
-- ARGV: the mark of the commit, which is the token of its lock; the field for the mark; the number
-- before and its own number; the instance before and after; the check to write, if any; the channel
-- to notify, if any; how many commits with events are kept; then the changes, each a letter and its
-- arguments.
local head, users, order, used, places, events, lock = unpack(KEYS)
local mark, field, before, number, instance, own_instance, check, channel, keep =
    unpack(ARGV, 1, 9)

local known = redis.call('HMGET', head, field, 'number', 'instance')
-- An attempt whose answer was lost.
if known[1] == mark then return 'done' end
if redis.call('GET', lock) ~= mark then return 'lost' end
if (known[2] or '0') ~= before or (known[3] or '') ~= instance then return 'stale' end
-- Nothing may fail from the first write on.
local types = { [users] = 'hash', [places] = 'hash', [order] = 'zset', [used] = 'zset',
    [events] = 'list' }
for key, kind in pairs(types) do
    local found = redis.call('TYPE', key).ok
    if found ~= 'none' and found ~= kind then
        return redis.error_reply('WRONGTYPE another type than ' .. kind)
    end
end

local function remove(id)
    local place = redis.call('HGET', places, id)
    if not place then return end
    redis.call('ZREM', order, string.sub(place, 1, 20) .. ':' .. id)
    redis.call('ZREM', used, string.sub(place, 21) .. ':' .. id)
    redis.call('HDEL', places, id)
    redis.call('HDEL', users, id)
end

redis.call('HSET', head, 'format', '1', 'number', number, 'instance', own_instance, 'mark', mark,
    field, mark)
if check ~= '' then redis.call('HSET', head, 'check', check) end
local next = 10
while next <= #ARGV do
    local change = ARGV[next]
    local one, two, three, four = ARGV[next + 1], ARGV[next + 2], ARGV[next + 3], ARGV[next + 4]
    if change == 'put' then
        remove(one)
        redis.call('HSET', users, one, two)
        redis.call('HSET', places, one, three .. four)
        redis.call('ZADD', order, 0, three .. ':' .. one)
        if four ~= '' then redis.call('ZADD', used, 0, four .. ':' .. one) end
        next = next + 5
    elseif change == 'remove' then
        remove(one)
        next = next + 2
    elseif change == 'set' then
        redis.call('HSET', head, one, two)
        next = next + 3
    elseif change == 'clear' then
        redis.call('HDEL', head, one)
        next = next + 2
    else
        redis.call('RPUSH', events, one)
        next = next + 2
    end
end
while redis.call('LLEN', events) > tonumber(keep) do
    redis.call('HSET', head, 'since', string.sub(redis.call('LPOP', events), 1, 20))
end
redis.call('HSET', head, 'count', redis.call('HLEN', users))
redis.call('DEL', lock)
-- An account without the permission to publish commits all the same.
if channel ~= '' then redis.pcall('PUBLISH', channel, number) end
return 'ok'
