-- Takes the lock KEYS[3] for ARGV[2] for ARGV[3] milliseconds and returns the head, or nothing if
-- somebody else has it.
if not redis.call('SET', KEYS[3], ARGV[2], 'NX', 'PX', ARGV[3])
    and redis.call('GET', KEYS[3]) ~= ARGV[2] then
    return false
end
return { read_head(), false }
