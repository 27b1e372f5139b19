-- The head, and users in the order of KEYS[3] from ARGV[2] on: at most ARGV[3] of them, and no more
-- once they have ARGV[4] bytes.
local names = redis.call('ZRANGEBYLEX', KEYS[3], ARGV[2], '+', 'LIMIT', 0, ARGV[3])
local page, bytes = {}, 0
for _, name in ipairs(names) do
    local id = string.sub(name, 22)
    local record = redis.call('HGET', KEYS[2], id)
    page[#page + 1] = id
    page[#page + 1] = record
    bytes = bytes + (record and #record or 0)
    if bytes > tonumber(ARGV[4]) then break end
end
return { read_head(), page }
