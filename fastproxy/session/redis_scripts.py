"""What must happen at once inside the server, as scripts. They read members of a record with cjson and never write JSON
of their own, which would break big integers. GET and SET alone, which every user of ours may do.
"""

import hashlib


class Script:
    """Lua that the server keeps by its SHA-1."""

    def __init__(self, lua: str) -> None:
        self.lua = lua
        self.sha = hashlib.sha1(lua.encode(), usedforsecurity=False).hexdigest()


# KEYS[1] record; ARGV: new record, expected generation, expiry option, expiry, our version. 1 is: replaced.
UPDATE = Script("""
local held = redis.call('GET', KEYS[1])
if not held then return 0 end
local whole, session = pcall(cjson.decode, held)
if not whole or type(session) ~= 'table' then return -1 end
if type(session.v) == 'number' and session.v > tonumber(ARGV[5]) then return -2 end
if session.generation ~= tonumber(ARGV[2]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], ARGV[3], ARGV[4])
return 1
""")

# KEYS[1] claim; ARGV: owner, milliseconds.
CLAIM = Script("""
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
""")

RELEASE = Script("""
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
""")


# KEYS[1] the lines; ARGV: member, its line, milliseconds, members that are gone. Answers with the lines that stay.
SHARE_NEWS = Script("""
local kept = {ARGV[1] .. ' ' .. ARGV[2]}
local dropped = {[ARGV[1]] = true}
for i = 4, #ARGV do dropped[ARGV[i]] = true end
for member, news in string.gmatch(redis.call('GET', KEYS[1]) or '', '(%S+) (%S+)') do
  if not dropped[member] then table.insert(kept, member .. ' ' .. news) end
end
local all = table.concat(kept, '\\n')
redis.call('SET', KEYS[1], all, 'PX', ARGV[3])
return all
""")
