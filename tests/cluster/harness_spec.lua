--- The harness itself, on stock servers: what the cluster specs stand on.

local pg = require("tests.lib.pg")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

describe("harness", function()
    local place, server

    setup(function()
        place = place_of.new()
        server = pg.new(place, { settings = { wal_level = "replica" } })
        server:start()
    end)

    teardown(place_of.close_all)

    it("gives rows, with NULL as nil, and an empty result as no rows", function()
        assert.are.same({ { a = "1", b = "x\ny" }, { a = "2", c = "" } }, server:sql(
            "select * from (values (1, E'x\\ny', null), (2, null, '')) as t (a, b, c)"))
        assert.are.same({}, server:sql("select 1 as a where false"))
        assert.are.same({}, server:sql("create table t (i int)"))
    end)

    it("says what a failed statement was answered", function()
        local rows, message = server:try_sql("select nothing_like_it")
        assert.is_nil(rows)
        assert.matches('column "nothing_like_it" does not exist', message)
        assert.has_error(function() server:sql("select 1/0") end)
    end)

    it("keeps sessions open", function()
        local session = server:session()
        assert.are.equal("", session:ask("begin"))
        assert.are.equal("1\n", session:ask("create table later (i int); select 1"))
        assert.are.equal("f", server:value("exists (select from pg_class where relname = 'later')"))
        assert.matches("ERROR", session:ask("select 1/0"))
        session:close()
    end)

    it("makes standbys that stream", function()
        local standby = pg.standby(server)
        standby:start()
        server:sql("create table streamed as select generate_series(1, 1000) as i")
        standby:catch_up(server)
        assert.are.equal("1000", standby:value("select count(*) from streamed"))
        assert.are.equal("in archive recovery", standby:control()["Database cluster state"])
        standby:stop()
    end)

    it("kills a postmaster and starts it again", function()
        local other = pg.new(place, { initdb = { "--wal-segsize=1" } })
        other:start()
        assert.are.equal("1MB", other:value("current_setting('wal_segment_size')"))
        other:kill()
        assert.is_false(other:running())
        other:start()
        assert.is_true(other:running())
    end)

    it("runs programs and tells how they end", function()
        local result = place:run({ "sh", "-c", "cat; echo said >&2; exit 3" }, { stdin = "it's\n" })
        assert.are.same({ code = 3, out = "it's\n", err = "said\n" }, result)
        assert.are.equal(124, place:run({ "tail", "-f", "/dev/null" }, { timeout_s = 0.2 }).code)
        local program = place:start({ "sh", "-c", "echo ready $X; exec tail -f /dev/null" },
            { env = { X = "now" } })
        assert.are.equal("now", program:says("ready (%a+)", wait.SOON_S))
        assert.is_nil(program:code())
        program:kill("KILL")
        assert.are.equal(137, program:wait(wait.SOON_S))
    end)

    it("says what it waited for", function()
        local ok, message = pcall(wait.eventually, "the moon", 0.1, function()
            return nil, "still dark"
        end)
        assert.is_false(ok)
        assert.matches("waited 0.1 s for the moon; last: still dark", message)
        assert.has_error(function() wait.always("light", 0.1, function() return false end) end)
    end)
end)

describe("harness: a place", function()
    it("takes everything in it along, a hung server too", function()
        local place = place_of.new()
        local server = pg.new(place)
        server:start()
        local program = place:start({ "sh", "-c", "trap '' TERM; cd /; tail -f /dev/null; :" })
        local postmaster = server:pid()
        server:kill("STOP")
        place:close()
        assert.is_false(place_of.alive(postmaster))
        assert.is_false(place_of.alive(program.pid))
        assert.are_not.equal(0, os.execute("test -e " .. place.dir))
    end)

    it("is swept when its specs are killed", function()
        local outer = place_of.new()
        local child = outer:start({ "sh", "-c", "cd " .. place_of.quote(os.getenv("PWD")) ..
            [[ && exec luajit -e '
            package.path = "./?.lua;" .. package.path
            local server = require("tests.lib.pg").new(require("tests.lib.place").new())
            server:start()
            print("pid " .. server:pid() .. " dir " .. server.place.dir .. ".")
            io.stdout:flush()
            io.popen("tail -f /dev/null"):read("*a")']] })
        local pid, dir = child:says("pid (%d+) dir (%S+)%.\n", wait.SOON_S)
        assert.is_true(place_of.alive(tonumber(pid)))
        child:kill("KILL")
        wait.eventually("the server to be swept", wait.SOON_S, function()
            return not place_of.alive(tonumber(pid)) and
                os.execute("test -e " .. place_of.quote(dir)) ~= 0
        end)
        outer:close()
    end)
end)
