-- The head. If there is an ARGV[2], the record of that user.
return { read_head(), ARGV[2] and redis.call('HGET', KEYS[2], ARGV[2]) or false }
