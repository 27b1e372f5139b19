-- Says in the head KEYS[1] that enough replicas have the commit ARGV[1], whose mark is ARGV[2] in
-- the field ARGV[3].
local head = redis.call('HMGET', KEYS[1], 'safe', ARGV[3])
if head[2] == ARGV[2] and tonumber(head[1] or '0') < tonumber(ARGV[1]) then
    redis.call('HSET', KEYS[1], 'safe', ARGV[1], 'safe_mark', ARGV[2])
end
return 1
