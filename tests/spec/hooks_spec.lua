--- Hooks: programs that are run for events, whatever they do, and nobody who waits for them.
local config = require("lib.config")
local hooks = require("lib.hooks")
local mr = require("moonrise")

local copy = require("tests.lib.copy")
local place_of = require("tests.lib.place")
local turns = require("tests.lib.turns")
local wait = require("tests.lib.wait")

describe("hooks", function()
    local place, told

    before_each(function()
        place, told = place_of.new(), {}
    end)

    after_each(place_of.close_all)

    local function script(name, text)
        local path = place:write(name, "#!/bin/sh\n" .. text .. "\n")
        place:must({ "chmod", "755", path })
        return path
    end

    -- Runs fn(set) with hooks of these specs, then gives them so long to end.
    local function with(specs, close_ms, fn)
        mr.main(function()
            local set = hooks.new({ name = "spec", datadir = "/d" }, function(kind, entry)
                table.insert(told, kind .. " " .. entry.text)
            end)
            set:configure(specs)
            fn(set)
            set:close(close_ms)
        end)
        assert.equals(0, mr._handles())
    end

    local function alert(set, text, more)
        set:event("alert", copy({ content = 0, dbid = 2, text = text or "one",
            data = { at = 1700000000123 } }, more))
    end

    local function pid_in(path)
        return wait.eventually("a process id in " .. path, wait.SOON_S, function()
            return tonumber(place_of.read(path) or "")
        end)
    end

    it("get the event as JSON on standard input, in the order of events", function()
        local out = place:path("out")
        with({ { run = script("hook", "cat >> " .. out) } }, 10000, function(set)
            alert(set)
            set:event("state", { content = -1, text = "two", data = { at = 5, to = "alone" } })
        end)
        assert.same({}, told)
        local lines = {}
        for line in place_of.read(out):gmatch("[^\n]+") do
            table.insert(lines, mr.json_decode(line))
        end
        assert.same({ time = "2023-11-14T22:13:20.123Z", cluster = "spec", kind = "alert",
            content = 0, dbid = 2, text = "one", data = { at = 1700000000123 } }, lines[1])
        assert.equals("two", lines[2].text)
        assert.equals(2, #lines)
    end)

    it("are run for the kinds they name, never for their own failures or somebody's work",
        function()
        local out, both = place:path("out"), place:path("both")
        with({ { run = script("some", "echo run >> " .. out), kinds = { "disk" } },
               { run = script("all", "echo run >> " .. both) } }, 10000, function(set)
            alert(set)
            for _, kind in ipairs({ "hook", "decision", "no such kind" }) do
                set:event(kind, { text = "x" })
            end
            set:event("state", { text = "x", data = { to = "leased" } })
            set:event("disk", { text = "x" })
        end)
        assert.equals("run\n", place_of.read(out))
        assert.equals("run\nrun\n", place_of.read(both))
    end)

    it("know where the cluster is, and no secrets", function()
        local out = place:path("out")
        script("hook", "env > " .. out)
        place:write("run.lua", [[
local hooks, mr = require("lib.hooks"), require("moonrise")
return { summary = "x", main = function()
    local set = hooks.new({ name = "spec", datadir = "/d" }, function() end)
    set:configure({ { run = "]] .. place:path("hook") .. [[" } })
    set:event("alert", { text = "x" })
    set:close(10000)
    return 0
end }]])
        place:must({ place_of.moonrise(), "run", place:path("run.lua") },
            { env = { PGPASSWORD = "secret", MOONRISE_COORDINATOR = "password=secret" } })
        local env = place_of.read(out)
        assert.matches("COORDINATOR_DATA_DIRECTORY=/d\n", env, 1, true)
        assert.matches("PATH=/", env, 1, true)
        assert.not_matches("secret", env, 1, true)
    end)

    local FAILURES = {
        { "is not there", nil, "cannot start" },
        { "is not executable", false, "cannot start" },
        { "fails", "echo why >&2; echo more >&2; exit 3", "exit code 3: why$" },
        { "is killed", "kill -9 $$", "signal 9 ended it" },
        { "fails without a word", "exit 1", "exit code 1$" },
    }

    for _, failure in ipairs(FAILURES) do
        it("tell of one that " .. failure[1] .. ", and go on", function()
            local path = place:path("hook")
            if failure[2] then
                script("hook", failure[2])
            elseif failure[2] == false then
                place:write("hook", "#!/bin/sh\n")
            end
            with({ { run = path } }, 10000, function(set)
                alert(set)
                alert(set)
            end)
            assert.equals(2, #told)
            assert.matches("^hook " .. path:gsub("%p", "%%%0") .. ": .*" .. failure[3], told[1])
        end)
    end

    it("end one that hangs with all of its group, also what does not heed SIGTERM", function()
        local pids = { place:path("heeds"), place:path("heeds_not") }
        local path = script("hook", ([[
sh -c 'trap "" TERM; echo $$ > %s; tail -f /dev/null' &
echo $$ > %s
wait]]):format(pids[2], pids[1]))
        local began = mr.clock()
        with({ { run = path, timeout_ms = 500 } }, 30000, alert)
        assert.is_true(mr.clock() - began < 20000)
        assert.matches("it did not end in time and was killed", told[1])
        for _, file in ipairs(pids) do
            local pid = pid_in(file)
            wait.eventually(file .. " to be gone", wait.SOON_S, function()
                return not place_of.alive(pid)
            end)
        end
    end)

    it("kill one that ignores SIGTERM, a second later", function()
        local path = script("hook", "trap '' TERM; while :; do tail -f /dev/null; done")
        with({ { run = path, timeout_ms = 100 } }, 30000, alert)
        assert.matches("it did not end in time and was killed", told[1])
    end)

    it("drop what one prints without end", function()
        local path = script("hook", "head -c 20000000 /dev/zero; " ..
            "head -c 20000000 /dev/zero | tr '\\0' x >&2; exit 4")
        with({ { run = path } }, 60000, alert)
        assert.matches("exit code 4: xx", told[1])
        assert.is_true(#told[1] < 1000)
    end)

    it("do not wait for one to read a large event", function()
        local path = script("hook", "exit 0")
        with({ { run = path } }, 10000, function(set)
            alert(set, ("x"):rep(1000000))
            alert(set)
        end)
        assert.same({}, told)
    end)

    it("do not wait for what one leaves in the background", function()
        local file = place:path("pid")
        local path = script("hook",
            ("setsid sh -c 'echo $$ > %s; exec tail -f /dev/null' & exit 0"):format(file))
        local began = mr.clock()
        with({ { run = path } }, 20000, alert)
        assert.is_true(mr.clock() - began < 10000)
        assert.same({}, told)
        place_of.kill(pid_in(file), "KILL")
    end)

    it("drop what comes faster than they are, and tell how many", function()
        local out, gate = place:path("out"), place:path("gate")
        place:must({ "mkfifo", gate })
        local path = script("hook", ("cat >> %s; mkdir %s.first && read -r line < %s; exit 0")
            :format(out, gate, gate))
        with({ { run = path } }, 60000, function(set)
            alert(set, "first")
            turns.eventually("the first to be read", turns.SOON_MS, function()
                return (place_of.read(out) or ""):match("\n")
            end)
            for i = 1, 107 do
                alert(set, "n" .. i)
            end
            place:write("gate", "go on\n")
        end)
        local count, dropped = 0, nil
        for line in place_of.read(out):gmatch("[^\n]+") do
            count, dropped = count + 1, dropped or mr.json_decode(line).dropped
        end
        assert.equals(101, count)
        assert.equals(7, dropped)
        assert.matches("7 event%(s%) were dropped", told[1])
    end)

    it("end in time with whom they belong to, and tell what was left", function()
        local file = place:path("pid")
        local path = script("hook", ("echo $$ > %s; exec tail -f /dev/null"):format(file))
        local began = mr.clock()
        with({ { run = path } }, 200, function(set)
            alert(set)
            alert(set)
            turns.eventually("the hook", turns.SOON_MS, function()
                return place_of.read(file)
            end)
        end)
        assert.is_true(mr.clock() - began < 5000)
        assert.matches("it was ended with the watcher, 1 event%(s%) were left", told[1])
    end)

    it("are those of the last cluster.lua", function()
        local out = place:path("out")
        with({ { run = script("old", "echo old >> " .. out) } }, 10000, function(set)
            alert(set)
            set:configure({ { run = script("new", "echo new >> " .. out) } })
            turns.eventually("the old one", turns.SOON_MS, function()
                return place_of.read(out)
            end)
            alert(set)
        end)
        assert.equals("old\nnew\n", place_of.read(out))
    end)

    it("are read from a path, a hook or a list of them", function()
        local function read(on_event)
            local place_row = { host = "h", port = 1, datadir = "/c" }
            return config.check({ name = "n", coordinator = place_row, segments = {},
                on_event = on_event }, "f")
        end
        assert.same({ { run = "/a" } }, read("/a").on_event)
        assert.same({ { run = "/a", kinds = { "disk" } } },
            read({ run = "/a", kinds = { "disk" } }).on_event)
        assert.same({ { run = "/a" }, { run = "/b", timeout_ms = 5 } },
            read({ "/a", { run = "/b", timeout_ms = 5 } }).on_event)
        assert.same({}, read(nil).on_event)
        for wrong, path in pairs({ ["relative"] = "on_event%[1%]%.run", [7] = "on_event",
            [{ run = "/a", kinds = { "hook" } }] = "on_event%[1%]%.kinds%[1%]: wants one of state",
            [{ run = "/a", times = 3 }] = "on_event%[1%]%.times: unknown key" }) do
            local _, err = read(wrong)
            assert.matches(path, err.message)
        end
    end)
end)
