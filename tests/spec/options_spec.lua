--- Options that mean nothing with the rest of a command line are wrong use; none is taken silently.
local place_of = require("tests.lib.place")

local REFUSED = {
    { "recoverseg", "-r", "--max-rate", "1MB" },
    { "recoverseg", "-r", "--max-rate-host", "1MB" },
    { "recoverseg", "-r", "--tablespace-mapping", "/a=/b" },
    { "recoverseg", "--replay-lag", "1MB" },
    { "recoverseg", "--policy", "failover=policies/failover.lua" },
    { "recoverseg", "-r", "--policy", "recovery=policies/recovery.lua" },
    { "stop", "-u", "-m" }, { "stop", "-u", "-y" }, { "stop", "-u", "-t", "5" },
    { "stop", "-u", "-M", "fast" },
    { "pause", "0", "--reason", "x" }, { "pause", "0", "--for", "1h" },
    { "pause", "--for", "1h", "--reason", " " }, { "pause", "--for", "8d", "--reason", "x" },
    { "pause", "--for", "soon", "--reason", "x" }, { "pause", "--for", "10ms", "--reason", "x" },
    { "pause", "--for", "1h", "--reason", "two\nlines" },
    { "pause", "0", "1", "--for", "1h", "--reason", "x" }, { "resume", "0", "1" },
    { "stop", "--host", "sdw1", "-m" }, { "stop", "--host", "sdw1", "-u" },
    { "stop", "--host", "sdw1", "-r" }, { "stop", "--host", "sdw1", "-y" },
    { "switchover" }, { "switchover", "zero" }, { "switchover", "-1" }, { "switchover", "0", "0" },
    { "switchover", "0", "--replay-lag", "much" }, { "restart" }, { "restart", "0", "1" },
    { "restart", "0", "--dbid", "2" }, { "restart", "sdw1" }, { "restart", "0", "-M", "soon" },
    { "restart", "--dbid", "0" },
    { "watch", "--json" }, { "watch", "--policy", "recovery=policies/recovery.lua" },
}

describe("a command line", function()
    local place

    setup(function()
        place = place_of.new()
        for _, kind in ipairs({ "failover", "recovery" }) do
            place:must({ "mkdir", "-p", "policies" })
            place:write("policies/" .. kind .. ".lua", "return {}")
        end
    end)

    teardown(place_of.close_all)

    for _, words in ipairs(REFUSED) do
        local line = table.concat(words, " ")
        it("moonrise " .. line .. " is wrong use", function()
            local result = place:run({ place_of.moonrise(), unpack(words) })
            assert.are.equal(2, result.code, result.out .. result.err)
            assert.matches("moonrise " .. words[1] .. ": ", result.err, 1, true)
            assert.matches("Try: moonrise", result.err, 1, true)
        end)
    end

    for _, name in ipairs({ "recoverseg", "addmirrors", "movemirrors" }) do
        it("moonrise " .. name .. " says how it copies in the same words as others", function()
            local text = place:must({ place_of.moonrise(), name, "--help" })
            local letter = name == "addmirrors" and "      " or "  %-s, "
            for _, words in ipairs({ "%-%-max%-rate SIZE +largest .* that all copies together",
                "%-%-max%-rate%-host SIZE", "%-%-tablespace%-mapping OLD=NEW",
                "\n" .. letter .. "%-%-sequential ", "%-%-no%-progress " }) do
                assert.matches(words, text)
            end
        end)
    end

    it("that names a log which cannot be written is wrong use", function()
        local file = place:write("file", "")
        for _, dir in ipairs({ file, "/proc/nowhere" }) do
            local result = place:run({ place_of.moonrise(), "history", "-l", dir })
            assert.are.equal(2, result.code)
            assert.matches("no log can be written to " .. dir, result.err, 1, true)
        end
    end)
end)
