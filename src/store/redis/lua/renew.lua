-- Renews the lock KEYS[1] for ARGV[2] milliseconds if ARGV[1] has it.
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 0
