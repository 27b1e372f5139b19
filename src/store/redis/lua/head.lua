-- Part of every script that reads. KEYS[1] is the head, KEYS[2] the users; ARGV[1] is the field
-- with the mark of a commit that the caller has seen, or nothing.
local function read_head()
    local head = redis.call('HMGET', KEYS[1], 'format', 'instance', 'check', 'number', 'mark',
        'safe', 'safe_mark', 'since', 'count', 'current', 'location', ARGV[1])
    head[#head + 1] = redis.call('HLEN', KEYS[2])
    return head
end
