--- `moonrise demo`: its story, and that --clean leaves nothing, whatever has become of it.

local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

local DEADLINE_S = 120

local function exists(path)
    return os.execute("test -e " .. place_of.quote(path)) == 0
end

-- Processes that work in the place's directories, and its watcher.
local function pids(place)
    local pipe = io.popen(("{ find /proc/[0-9]*/cwd -maxdepth 0 -lname '%s/demo/*'; " ..
        "grep -lz '^MOONRISE_TEST_DIR=%s$' $(grep -lz 'moonrise$' /proc/[0-9]*/cmdline); } " ..
        "2>/dev/null | cut -d/ -f3 | sort -u"):format(place.dir, place.dir))
    local list = {}
    for pid in pipe:read("*a"):gmatch("%d+") do
        table.insert(list, tonumber(pid))
    end
    pipe:close()
    return list
end

local function watcher(place)
    return tonumber(place_of.read(place:path("home/state/moonrise/demo/watch.pid")) or "")
end

-- From then on the demo waits for the failover.
local function wait_killed(pidfile)
    wait.eventually("the primary to be killed", wait.SOON_S, function()
        local pid = tonumber((place_of.read(pidfile) or ""):match("^%d+"))
        return not pid or not place_of.alive(pid)
    end)
end

describe("demo", function()
    local place, dir

    before_each(function()
        place = place_of.new()
        dir = place:path("demo")
    end)

    after_each(function()
        place:close()
    end)

    local function demo(...)
        return place:run({ place_of.moonrise(), "demo", "--dir", dir, ... },
            { timeout_s = DEADLINE_S })
    end

    local function clean_leaves_nothing()
        local pid = watcher(place)
        local result = demo("--clean")
        assert.equal(0, result.code, result.out .. result.err)
        assert.same({}, pids(place))
        assert.is_false(pid ~= nil and place_of.alive(pid))
        for _, path in ipairs({ dir, place:path("home/state/moonrise"),
            place:path("home/gpAdminLogs") }) do
            assert.is_false(exists(path), path)
        end
    end

    it("tells its story, and is removed also when its machine was switched off", function()
        local result = demo()
        assert.equal(0, result.code, result.out .. result.err)
        local rows, missing = result.out:match("\n(%d+) rows acknowledged, (%d+) missing\n")
        assert.equal("0", missing)
        assert.is_true(tonumber(rows) > 500)
        assert.matches("is there already", demo().err)
        place_of.kill(watcher(place), "KILL")
        for _, pid in ipairs(pids(place)) do
            place_of.kill(pid, "KILL")
        end
        wait.eventually("all of it to be gone", wait.SOON_S, function()
            return #pids(place) == 0
        end)
        clean_leaves_nothing()
    end)

    it("is interrupted with a word about what it left", function()
        for _, at in ipairs({ "== A cluster", "kill %-9", "recoverseg %-a" }) do
            local program = place:start({ place_of.moonrise(), "demo", "--dir", dir })
            program:says(at, DEADLINE_S)
            if at == "kill %-9" then
                wait_killed(dir .. "/primary/gpseg1/postmaster.pid")
            end
            program:kill("TERM")
            assert.equal(1, program:wait(DEADLINE_S))
            -- With the command that this user would give: `demo --clean`, or `make demo-clean`.
            assert.matches("interrupted\n.*demo[ -]+clean", program:output())
            clean_leaves_nothing()
        end
    end)

    it("removes nothing that no demo has made", function()
        place:must({ "mkdir", dir })
        local result = demo("--clean")
        assert.equal(1, result.code)
        assert.matches("was not made by moonrise demo", result.err)
        assert.is_true(exists(dir))
    end)
end)
