--- Agents on other hosts, by ssh: a real sshd under names that only ~/.ssh/config knows.
local agents = require("lib.agents")
local mr = require("moonrise")

local place_of = require("tests.lib.place")
local sshd = require("tests.lib.sshd")
local turns = require("tests.lib.turns")

local main = turns.main

local reason = sshd.missing()
local test = reason and function(name)
    pending(name .. ": " .. reason)
end or it

describe("an agent on another host", function()
    local place, box

    setup(function()
        if not reason then
            place = place_of.new()
            place:must({ "mkdir", "-p", "far" })
            box = sshd.start(place, "sdw1", { env = { HOME = place:path("far") } })
        end
    end)

    teardown(place_of.close_all)

    local function set()
        return agents.new({ bin = "/usr/bin", user = "moonrise", passfile = "/no/such/file" })
    end

    -- A program there that takes the place of what `moonrise deploy` installs.
    local function install(script)
        local dir = "far/.local/lib/moonrise/" .. mr.version .. "/bin"
        place:must({ "mkdir", "-p", dir })
        place:write(dir .. "/moonrise", script)
        place:must({ "chmod", "755", dir .. "/moonrise" })
    end

    local function uninstall()
        place:must({ "rm", "-rf", "far/.local" })
    end

    test("answers as one here does", main(function()
        local all = set()
        local hello = mr.check(all:call("sdw1", "hello"))
        assert.equals(mr.whoami().hostname, hello.hostname)
        assert.equals("missing", mr.check(all:inspect({ hostname = "sdw1", dbid = 2, content = 0,
            role = "p", port = 1, datadir = "/no/such/dir" })).kind)
        all:close()
    end))

    test("is reached once by all who need it at the same time", main(function()
        local all = set()
        local pids = mr.parallel({ 1, 2, 3, 4 }, 4, function()
            return mr.check(all:call("sdw1", "hello")).pid
        end)
        assert.same({ pids[1], pids[1], pids[1], pids[1] }, pids)
        all:close()
    end))

    test("that has ended is started again at the next call", main(function()
        local all = set()
        local pid = mr.check(all:call("sdw1", "hello")).pid
        mr.kill(pid, "KILL")
        repeat
            local hello, err = all:call("sdw1", "hello")
            assert.is_true(hello ~= nil or err.code == "connect", tostring(err))
        until hello and hello.pid ~= pid
        all:close()
    end))

    test("of another version is named with both, and what to run", main(function()
        install(([[#!/bin/sh
exec %s -e '
local function le(n) return string.char(n %% 256, math.floor(n / 256) %% 256, 0, 0) end
local bit = require("bit")
local text = "{\"protocol\":1,\"version\":\"0.0.7\"}"
local head = "\137MR\1" .. le(#text) .. le(0) .. "\1\0\0\0"
local crc = 0xffffffff
for c in (head .. text):gmatch(".") do
    crc = bit.bxor(crc, c:byte())
    for _ = 1, 8 do
        local low = bit.band(crc, 1)
        crc = bit.rshift(crc, 1)
        if low == 1 then crc = bit.bxor(crc, 0x82f63b78) end
    end
end
crc = bit.bxor(crc, 0xffffffff) %% 4294967296
io.write("welcome\n", head, string.char(crc %% 256, math.floor(crc / 256) %% 256,
    math.floor(crc / 65536) %% 256, math.floor(crc / 16777216)), text)
io.flush()
io.read("*a")'
]]):format("luajit"))
        local all = set()
        local hello, err = all:call("sdw1", "hello")
        uninstall()
        assert.is_nil(hello)
        assert.equals("connect", err.code)
        assert.equals("version", err.cause.code)
        assert.matches("sdw1: moonrise there is 0%.0%.7 .* this one ", err.message)
        assert.matches("this one " .. mr.version, err.message, 1, true)
        assert.equals("install this moonrise there: moonrise deploy sdw1", err.hint)
        all:close()
    end))

    test("where there is no moonrise is told so", main(function()
        for _, case in ipairs({
            { "#!/bin/sh\necho sh: moonrise: not found >&2; exit 127\n", "not found" },
            { "#!/bin/sh\necho Command not found. >&2; exit 1\n", "Command not found" },
            { "#!/bin/sh\nhead -c 100000 /dev/zero; exec cat\n", "no moonrise" },
        }) do
            install(case[1])
            local all = set()
            local hello, err = all:call("sdw1", "hello")
            assert.is_nil(hello)
            assert.equals("connect", err.code)
            assert.matches(case[2], err.message)
            assert.equals("install this moonrise there: moonrise deploy sdw1", err.hint)
            all:close()
        end
        uninstall()
    end))

    test("that cannot be reached is not tried again for each call", main(function()
        local all, dead = set(), sshd.start(place, "sdw2")
        dead:stop()
        local _, first = all:call("sdw2", "hello")
        local _, second = all:call("sdw2", "hello")
        assert.equals("connect", first.code)
        assert.matches("ssh to sdw2 .*Connection refused", first.message)
        assert.equals(first, second)
        all:close()
    end))

    test("whose key is not known is told with the fingerprint", main(function()
        local all = set()
        place:must({ "sh", "-c", ("echo 'Host sdw3\n  HostName localhost\n  Port %d' >>%s")
            :format(box.port, place_of.quote(place:path("home/.ssh/config"))) })
        local _, err = all:call("sdw3", "hello")
        assert.equals("connect", err.code)
        assert.equals("unknownkey", err.cause.code)
        assert.matches("SHA256:", err.message)
        assert.matches("`ssh sdw3`", err.hint, 1, true)
        all:close()
    end))

    test("is left while it is being reached", main(function()
        local agent = mr.check(mr.agent({ host = "sdw1" }))
        local task = turns.begin(agent.ready, agent)
        agent:close()
        assert.equals("cancelled", select(2, task:wait()).code)
    end))
end)
