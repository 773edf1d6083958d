--- `moonrise demo` from its first line to its removal, and what it says when a row is missing.

local pg = require("tests.lib.pg")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

local LONG_S = 180

describe("demo", function()
    local place

    before_each(function()
        place = place_of.new()
    end)

    after_each(function()
        place:close()
    end)

    local function demo(...)
        return place:start({ place_of.moonrise(), "demo", "--dir", place:path("demo"), ... })
    end

    local function server(name)
        return pg.at(place, place:path("demo/" .. name))
    end

    local function on_cluster(...)
        return place:run({ place_of.moonrise(), ..., "-d", place:path("demo/coordinator/gpseg-1") })
    end

    -- Ids of what still works in the demo's folder.
    local function living()
        local pids = {}
        for pid in io.popen("ls /proc"):lines() do
            local link = pid:match("^%d+$") and
                io.popen(("readlink /proc/%s/cwd 2>/dev/null"):format(pid)):read("*l")
            if link and link:find(place:path("demo"), 1, true) == 1 then
                table.insert(pids, pid)
            end
        end
        return pids
    end

    it("tells its story, proves that no row is missing, and leaves a cluster that works", function()
        local run = demo()
        assert.are.equal(0, run:wait(LONG_S), run:output())
        local rows, missing = run:output():match("\n(%d+) rows acknowledged, (%d+) missing\n")
        assert.are.equal("0", missing)
        assert.is_true(tonumber(rows) > 500, rows)
        for _, part in ipairs({ "postmaster %d+ of content 1 killed", "first row acknowledged",
            "recovered by", "roles returned", "All segments are running normally",
            "Try next:\n[^\n]+state[^\n]+\n[^\n]+history[^\n]+\n[^\n]+clean" }) do
            assert.matches(part, run:output())
        end
        assert.are.equal(0, on_cluster("state", "-e").code)
        assert.is_true(tonumber(server("coordinator/gpseg-1"):value(
            "(select count(*) from pg_stat_activity where application_name like 'moonrise%')")) > 0)
        assert.are.equal(1, demo():wait(LONG_S))
        local primary = server("primary/gpseg0")
        primary:kill()
        wait.eventually("its watcher to fail over", 20, function()
            return server("mirror/gpseg0"):value("pg_is_in_recovery()") == "f"
        end)
        assert.are.equal(0, demo("--clean"):wait(LONG_S))
        assert.are_not.equal(0, os.execute("test -e " .. place:path("demo")))
        assert.are.same({}, living())
        assert.are.equal(0, demo("--clean"):wait(LONG_S))
    end)

    it("leaves a folder alone that no demo has made", function()
        place:must({ "mkdir", place:path("demo") })
        place:write("demo/mine", "precious")
        assert.are.equal(1, demo():wait(LONG_S))
        assert.are.equal(1, demo("--clean"):wait(LONG_S))
        assert.are.equal("precious", place_of.read(place:path("demo/mine")))
    end)

    it("ends with code 1 when an acknowledged row is missing", function()
        local run = demo()
        local segment
        wait.eventually("rows that were acknowledged a while ago", LONG_S, function()
            segment = server("primary/gpseg0")
            return tonumber(segment:value("(select count(*) from orders)",
                { dbname = "shop" })) > 50, run:output()
        end)
        segment:sql("delete from orders where id = (select min(id) from orders)",
            { dbname = "shop" })
        assert.are.equal(1, run:wait(LONG_S), run:output())
        assert.matches("\n%d+ rows acknowledged, 1 missing\n", run:output())
        assert.are.equal(0, demo("--clean"):wait(LONG_S))
        assert.are.same({}, living())
    end)
end)
