-- Hands a leased chunk back.
--
-- ARGV[1]  token
-- ARGV[2]  1 where the attempt counts against its items, 0 where they are not to blame
-- ARGV[3]  attempts that an item has
-- ARGV[4]  serialized status that becomes the result of an item that has had them
--
-- Returns 1, or 0 where the lease is gone.

return hand_back(ARGV[1], ARGV[2] == '1', tonumber(ARGV[3]), ARGV[4]) and 1 or 0
