--- movemirrors on real servers: a mirror in sync moves while its primary is written to, and
--- protects it until the moment of the change.

local checkup = require("tests.lib.checkup")
local cluster_of = require("tests.lib.cluster")
local dice_of = require("tests.lib.dice")
local json = require("dkjson")
local namespace = require("tests.lib.namespace")
local gate_of = require("tests.lib.gate")
local place_of = require("tests.lib.place")
local shop = require("tests.lib.shop")
local wait = require("tests.lib.wait")

local SOON_S = wait.SOON_S
local ROUNDS = os.getenv("MOONRISE_CAMPAIGN") and 100 or 2
local KILLED = os.getenv("MOONRISE_CAMPAIGN") and { 0, 1 } or { 1 }
-- Slow enough that there is something to see, or to interrupt, while it is copied.
local RATE, SPAN_S = "15MB", 3
-- Without a mirror, on a machine that has much else to do.
local UNPROTECTED_MS = 15000

describe("movemirrors", function()
    local place, cluster, writers, alone, why_not
    local dice, number = dice_of.new(), 0

    setup(function()
        alone, why_not = namespace.enter()
        place = place_of.new()
        cluster = cluster_of.new(place, { segments = 2, hosts = { mirror0 = "127.0.0.1",
            mirror1 = "::1" }, hba = shop.hba, settings = { autovacuum = "off" } })
        cluster:init()
        for content = 0, 1 do
            cluster:primary(content):sql("create extension amcheck")
        end
        cluster:watched()
        writers = shop.open(cluster, 2)
    end)

    teardown(place_of.close_all)

    before_each(function()
        if not pcall(cluster.wait_healthy, cluster, 10) then
            cluster:mend()
        end
    end)

    local function line_of(server)
        return ("%s|%s|%s|%s"):format(server.hostname, server.address, server.port, server.datadir)
    end

    -- A place on this machine, by another of its names.
    local function new_place(host, dir)
        number = number + 1
        return { hostname = host or "localhost", address = "127.0.0.1",
                 port = place_of.free_port(), datadir = dir or place:path("new" .. number) }
    end

    local function file_of(...)
        return place:write("moves", table.concat({ ... }, "\n") .. "\n")
    end

    local function move(from, to, ...)
        return { "movemirrors", "-a", "-i", file_of(line_of(from) .. " " .. line_of(to)), ... }
    end

    local function has_moved(content, from, to)
        local mirror = cluster:mirror(content)
        assert.are.same({ from.dbid, to.hostname, to.port, to.datadir, "u", "s" },
            { mirror.dbid, mirror.hostname, tonumber(mirror.port), mirror.datadir,
              mirror.status, mirror.mode })
        assert.is_nil(place_of.read(from.datadir .. "/PG_VERSION"))
        assert.are.same({}, cluster:catalog("select * from left_place"))
        checkup.slots(cluster:primary(content), mirror)
        checkup.amcheck(mirror)
    end

    local function as_before(row)
        cluster:wait_row({ dbid = row.dbid, hostname = row.hostname, port = row.port,
            datadir = row.datadir, role = "m", status = "u", mode = "s" }, SOON_S)
        checkup.slots(cluster:primary(row.content), cluster:mirror(row.content))
    end

    it("moves one that is in sync, which protects its primary all the while", function()
        local from, to, since = cluster:mirror(0), new_place(), cluster:journal_end()
        local run = cluster:start(move(from, to, "--max-rate", RATE))
        wait.eventually("the copy to be half made", SOON_S, function()
            return place_of.read(to.datadir .. "/moonrise.patch"), run:output()
        end)
        cluster:wait_row({ dbid = from.dbid, port = from.port, status = "u", mode = "s" }, 1)
        assert.are.equal(0, #cluster:journal({ content = 0, since = since, kind = "out_of_sync" }))
        assert.are.equal(0, run:wait(wait.SOON_S), run:output())
        has_moved(0, from, to)
        local down = cluster:journal({ content = 0, since = since, kind = "mirror_down" })
        assert.are.equal(1, #down)
        local unprotected = cluster:catalog(([[
            select 1000 * extract(epoch from max(time) filter (where kind = 'in_sync')
                - max(time) filter (where kind = 'mirror_down')) as ms
            from journal where content = 0 and id > %d]]):format(since))[1].ms
        assert.is_true(tonumber(unprotected) < UNPROTECTED_MS, unprotected)
        writers:progress(20, SOON_S)
    end)

    it("to one place at a time", function()
        local from, to, since = cluster:mirror(0), new_place(), cluster:journal_end()
        local run = cluster:start(move(from, to, "--max-rate", RATE))
        wait.eventually("the copy to be half made", SOON_S, function()
            return place_of.read(to.datadir .. "/moonrise.patch"), run:output()
        end)
        for _, there in ipairs({ new_place(), to }) do
            local beside = cluster:moonrise(move(from, there))
            assert.are.equal(1, beside.code, beside.err)
            assert.matches("is on its way to " .. to.datadir, beside.err, 1, true)
            assert.matches("by %S+ pid " .. run.pid, beside.err)
        end
        -- None of these, nor one that finds it in its place, takes the slot of the copy away.
        cluster:must(move(from, from))
        assert.are.equal(0, run:wait(wait.SOON_S), run:output())
        has_moved(0, from, to)
        assert.are.equal(1, #cluster:journal({ content = 0, since = since, kind = "move" }))
    end)

    it("to another directory with the port that it has", function()
        local from, to = cluster:mirror(1), new_place("::1")
        to.port = tonumber(from.port)
        cluster:must(move(from, to))
        has_moved(1, from, to)
        assert.are.equal("127.0.0.1",
            cluster:mirror(1):value("current_setting('listen_addresses')"))
    end)

    it("shares what may be read among its copies", function()
        local lines = {}
        for content = 0, 1 do
            lines[content + 1] = line_of(cluster:mirror(content)) .. " " .. line_of(new_place())
        end
        local told = json.decode(cluster:must({ "movemirrors", "-i", file_of(unpack(lines)),
            "--max-rate", "10MB", "--dry-run", "--json" }))
        assert.are.same({ 5 * 2 ^ 20, 5 * 2 ^ 20 }, { told.moved[1].max_rate,
            told.moved[2].max_rate })
    end)

    it("with mistakes ends with 2 and touches nothing", function()
        local rows, mirror, primary = cluster:rows(), cluster:mirror(0), cluster:primary(0)
        local standing, to = line_of(cluster:mirror(1)), line_of(new_place())
        for text, words in pairs({
            [line_of(primary) .. " " .. to] = "line 2: dbid %d+ is its content's primary: "
                .. "moonrise switchover 0 makes",
            [line_of(cluster:coordinator()) .. " " .. to] = "line 2: ",
            [line_of(mirror)] = "line 2: two places are wanted",
            [to .. " " .. to] = "line 2: no instance of the cluster has",
            [line_of(mirror) .. " " .. standing] = "line 2: port %d+ of host ::1 is dbid",
            [line_of(mirror) .. " localhost|127.0.0.1|x|/d"] = "line 2: 'x' is no port",
            [line_of(mirror) .. " " .. to .. " " .. to] = "line 2: 3 places",
        }) do
            local result = cluster:moonrise({ "movemirrors", "-a", "-i", file_of("# x", text) })
            assert.are.equal(2, result.code, text)
            assert.matches(words, result.err)
        end
        for _, args in ipairs({ {}, { "-i", place:path("nowhere") }, { "stray" } }) do
            assert.are.equal(2, cluster:moonrise({ "movemirrors", "-a", unpack(args) }).code)
        end
        assert.are.equal(2, cluster:moonrise({ "movemirrors", "-i", file_of(line_of(mirror) ..
            " " .. to) }).code, "nobody was asked")
        assert.are.same(rows, cluster:rows())
    end)

    it("to a place where it cannot be leaves it where it is", function()
        local from = cluster:mirror(0)
        place:must({ "mkdir", "-p", "-m", "500", place:path("sealed") })
        for words, to in pairs({
            ["sealed/new"] = new_place(nil, place:path("sealed/new")),
            ["sdw9"] = { hostname = "sdw9", address = "127.0.0.1", port = 7000, datadir = "/new" },
        }) do
            local result = cluster:moonrise(move(from, to))
            assert.are.equal(1, result.code, result.out)
            assert.matches(words, result.err, 1, true)
            as_before(from)
        end
    end)

    it("to a host that is not reached is told once, for however many", function()
        local lines = {}
        for content = 0, 1 do
            lines[content + 1] = ("%s sdw9|127.0.0.1|%d|/new"):format(
                line_of(cluster:mirror(content)), 7000 + content)
            lines[content + 1] = lines[content + 1] .. content
        end
        local result = cluster:moonrise({ "movemirrors", "-a", "-i", file_of(unpack(lines)) })
        assert.are.equal(1, result.code, result.out)
        assert.are.equal(1, select(2, result.err:gsub(": the agent of host sdw9", "")), result.err)
        assert.are.equal(2, select(2, result.out:gsub(": skipped", "")), result.out)
    end)

    it("is not done while what the mirror has left cannot be removed", function()
        local from, to = cluster:mirror(0), new_place()
        local kept = from.datadir .. "/kept"
        place:must({ "mkdir", "-p", kept .. "/inside" })
        place:must({ "chmod", "500", kept })
        finally(function()
            place:run({ "chmod", "700", kept })
        end)
        assert.matches("moved in .*, in sync", cluster:moonrise(move(from, to)).out)
        local again = cluster:moonrise(move(from, to))
        assert.are.equal(1, again.code, again.out)
        assert.matches("which it has left: .-cannot remove inside: Permission denied", again.out)
        place:must({ "chmod", "700", kept })
        cluster:must(move(from, to))
        has_moved(0, from, to)
    end)

    it("to a disk that is full leaves it where it is, and goes on when there is room", function()
        if not alone then
            return pending(why_not)
        end
        local from, to = cluster:mirror(0), new_place()
        place:must({ "mkdir", "-m", "700", to.datadir })
        namespace.tmpfs(to.datadir, "60m")
        finally(function()
            place:run({ "sh", "-c", 'head -n 1 "$1/postmaster.pid" | xargs -r kill -QUIT', "sh",
                to.datadir })
            namespace.unmount(to.datadir)
        end)
        local run = cluster:start(move(from, to, "--max-rate", RATE))
        wait.eventually("the copy to be half made", SOON_S, function()
            return place_of.read(to.datadir .. "/moonrise.patch"), run:output()
        end)
        place:run({ "dd", "if=/dev/zero", "of=" .. to.datadir .. "/fill", "bs=1M", "count=60" })
        assert.are.equal(1, run:wait(wait.SOON_S), run:output())
        assert.matches("No space left on device", run:output())
        as_before(from)
        os.remove(to.datadir .. "/fill")
        namespace.tmpfs(to.datadir, "400m", true)
        cluster:must(move(from, to))
        has_moved(0, from, to)
        cluster:must(move(cluster:mirror(0), new_place()))
    end)

    it("does not hold up a failover, which ends it", function()
        local from, to, old = cluster:mirror(0), new_place(), cluster:primary(0)
        local run = cluster:start(move(from, to, "--max-rate", "2MB"))
        wait.eventually("the copy to be half made", SOON_S, function()
            return place_of.read(to.datadir .. "/moonrise.patch"), run:output()
        end)
        old:kill()
        cluster:wait_row({ dbid = from.dbid, role = "p", datadir = from.datadir }, SOON_S)
        writers:progress(10, SOON_S)
        assert.are.equal(1, run:wait(wait.SOON_S), run:output())
        cluster:recover()
        as_before(cluster:mirror(0))
        cluster:must({ "recoverseg", "-a", "-r" })
        cluster:wait_healthy(nil, true)
        as_before(from)
    end)

    it("recovers one that is down to its new place", function()
        local from, to = cluster:mirror(1), new_place("127.0.0.1")
        from:kill()
        cluster:wait_row({ dbid = from.dbid, status = "d", mode = "n" }, SOON_S)
        cluster:must(move(from, to))
        has_moved(1, from, to)
    end)

    it("killed in its switch: recoverseg brings the mirror back to where it was", function()
        local from, to = cluster:mirror(0), new_place()
        local gate = gate_of.close(cluster, "update on gp_segment_configuration",
            "old.datadir <> new.datadir")
        finally(function()
            gate:remove()
        end)
        -- The copy is the mirror, all but in the catalog.
        gate:kill(cluster:start(move(from, to)))
        cluster:must({ "recoverseg", "-a" })
        as_before(from)
        assert.are.same({}, cluster:catalog("select * from left_place"))
        assert.is_nil(place_of.read(to.datadir .. "/PG_VERSION"))
        assert.are.equal(from.datadir, cluster:mirror(0):value("current_setting('data_directory')"))
    end)

    local function killed(n, args)
        dice:told("round " .. n, function()
            local run = cluster:start(args)
            dice:kill(run, SPAN_S)
            run:wait(SOON_S)
        end)
    end

    it("is killed and run again until it is done; nothing that was acknowledged is lost", function()
        for _, content in ipairs(KILLED) do
            local from, to = cluster:mirror(content), new_place()
            local args = move(from, to, "--max-rate", RATE)
            for n = 1, ROUNDS / #KILLED do
                killed(n, args)
            end
            cluster:must(args)
            has_moved(content, from, to)
        end
        local proof = writers:prove()
        assert.is_true(proof.acknowledged > 100)
        shop.sound(proof)
        checkup.state(cluster, 0)
    end)
end)
