-- The head, and the events of the commits after ARGV[2], a number of 20 digits. KEYS[3] has them,
-- the oldest first, each behind the number of its commit.
local events = {}
if ARGV[2] ~= '' then
    for _, entry in ipairs(redis.call('LRANGE', KEYS[3], 0, -1)) do
        if string.sub(entry, 1, 20) > ARGV[2] then events[#events + 1] = entry end
    end
end
return { read_head(), events }
