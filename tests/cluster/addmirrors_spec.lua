--- addmirrors on real servers: a cluster without mirrors gets them while it is written to.

local checkup = require("tests.lib.checkup")
local cluster_of = require("tests.lib.cluster")
local dice_of = require("tests.lib.dice")
local gate_of = require("tests.lib.gate")
local json = require("dkjson")
local place_of = require("tests.lib.place")
local shop = require("tests.lib.shop")
local wait = require("tests.lib.wait")

local SOON_S = wait.SOON_S
local ROUNDS = os.getenv("MOONRISE_CAMPAIGN") and 100 or 2
-- Names of this host; each counts as a host of its own. One has two primaries.
local HOSTS = { primary0 = "127.0.0.1", primary1 = "127.0.0.1", primary2 = "::1",
    primary3 = "localhost" }
-- Slow enough that a kill finds something to interrupt.
local RATE, SPAN_S = "80MB", 3

describe("addmirrors", function()
    local place, cluster, dirs
    local dice = dice_of.new()

    setup(function()
        place = place_of.new()
        cluster = cluster_of.new(place, { segments = 4, mirrors = false, hosts = HOSTS,
            standby = true, hba = shop.hba, settings = { autovacuum = "off" } })
        cluster:init()
        for content = 0, 3 do
            cluster:primary(content):sql("create extension amcheck")
        end
        dirs = place:write("dirs", ("%s\n\n%s/\n"):format(place:path("m1"), place:path("m2")))
    end)

    teardown(place_of.close_all)

    -- Of a file that -o has written, by content.
    local function layout(...)
        local file = place:path("layout")
        cluster:must({ "addmirrors", "-o", file, "-m", dirs, ... })
        local text, found = place_of.read(file), {}
        for line in text:gmatch("[^\n]+") do
            local content, rest = line:match("^(%d+)|(.*)$")
            if content then
                found[tonumber(content)] = rest
            end
        end
        return found, file
    end

    local function port(content, more)
        return cluster.config.segments[content + 1].primary.port + more
    end

    local function mirror(content)
        for _, row in ipairs(cluster:rows()) do
            if row.role == "m" and row.content == tostring(content) then
                return row
            end
        end
        return nil
    end

    local function slots(content)
        return cluster:primary(content):sql("select slot_name from pg_replication_slots")
    end

    local function hba(content)
        return place_of.read(cluster:primary(content).datadir .. "/pg_hba.conf")
    end

    it("lays them out by group and spread, and reads what it has written", function()
        local m1, m2 = place:path("m1"), place:path("m2")
        local group, spread = layout(), layout("-s", "-p", "-2000")
        local where = { group = {}, spread = {} }
        for content = 0, 3 do
            where.group[content + 1] = group[content]
            where.spread[content + 1] = spread[content]:match("^(.-)|?127%.0%.0%.1|%d+|")
        end
        -- All names have the address 127.0.0.1: alone it is that of the coordinator's host.
        local two = port(0, 0) < port(1, 0)
        assert.are.same({
            ("[::1]|127.0.0.1|%d|%s/gp0"):format(port(0, 1000), two and m1 or m2),
            ("[::1]|127.0.0.1|%d|%s/gp1"):format(port(1, 1000), two and m2 or m1),
            ("127.0.0.1|%d|%s/gp2"):format(port(2, 1000), m1),
            ("127.0.0.1|127.0.0.1|%d|%s/gp3"):format(port(3, 1000), m1),
        }, where.group)
        assert.are.same({ two and "[::1]" or "", two and "" or "[::1]", "", "127.0.0.1" },
            where.spread)
        local _, file = layout("-s")
        local told = json.decode(cluster:must({ "addmirrors", "-i", file, "--dry-run", "--json",
            "--max-rate", "40MB" }))
        for _, one in ipairs(told.mirrors) do
            assert.are.equal(10 * 2 ^ 20, one.max_rate)
            one.max_rate = nil
        end
        local planned = json.decode(cluster:must({ "addmirrors", "-s", "-m", dirs, "--dry-run",
            "--json" }))
        assert.are.equal(4, #told.mirrors)
        assert.are.same(planned, told)
    end)

    it("with mistakes ends with 2 and touches nothing", function()
        local rows, before = cluster:rows(), hba(0)
        local taken = cluster.config.segments[1].primary
        local function refused(words, ...)
            local result = cluster:moonrise({ "addmirrors", "-a", ... })
            assert.are.equal(2, result.code, words .. result.out)
            assert.matches(words, result.err)
            assert.is_nil(result.err:find("traceback", 1, true))
        end
        local function in_file(words, text)
            refused("line 2 of .*bad: .*" .. words, "-i", place:write("bad", "#\n" .. text))
        end
        in_file("the cluster has no content 9", "9|::1|1|/x")
        in_file("is no port", "0|::1|0|/x")
        in_file("directory wanted, not 3 fields", "0|::1|1")
        in_file(("port %d on host 127.0.0.1 is in use"):format(taken.port),
            ("1|127.0.0.1|::1|%d|/x"):format(taken.port))
        in_file("primary0/x on host 127.0.0.1 is in use",
            ("1|127.0.0.1|::1|1|%s/x"):format(taken.datadir))
        refused("line 3 of .*bad: content 0 has this port on host ::1, too", "-i",
            place:write("bad", "#\n0|::1|1|/x\n1|::1|1|/y\n"))
        refused("cannot be read", "-i", place:path("nowhere"))
        refused("line 1 of .*dirs2: 'x' is no absolute path", "-m", place:write("dirs2", "x\n"))
        refused("2 locations are needed", "-m", place:write("dirs2", "/x\n"))
        refused("would have port %d+: a port is from 1", "-m", dirs, "-p", "60000")
        refused("%-i and %-s cannot be combined", "-s", "-i", "x")
        refused("%-m or %-i says it")
        local result = cluster:moonrise({ "addmirrors" })
        assert.are.equal(2, result.code)
        assert.matches("There is no terminal to ask on", result.err, 1, true)
        assert.are.same(rows, cluster:rows())
        assert.are.equal(before, hba(0))
    end)

    it("asks for directories, and before it begins", function()
        local run, answer = cluster:ask({ "addmirrors" })
        for n = 1, 2 do
            run:says(("location %d of 2 >"):format(n), SOON_S)
            answer(place:path("m" .. n))
        end
        run:says("Continue with add mirrors procedure", SOON_S)
        answer("n")
        assert.are_not.equal(0, run:wait(SOON_S))
        assert.is_nil(mirror(0))
    end)

    it("adds those it can, also on a new host, and takes back the others", function()
        local new_host = place:must({ "hostname" }):match("%S+")
        local before = hba(1)
        place:must({ "mkdir", "-m", "500", place:path("sealed") })
        local result = cluster:moonrise({ "addmirrors", "-a", "-i", place:write("some",
            ("0|%s|127.0.0.2|%d|%s\n1|::1|127.0.0.2|%d|%s\n2|sdw9|7000|/nowhere\n"):format(
            new_host, place_of.free_port(), place:path("new/gp0"), place_of.free_port(),
            place:path("sealed/gp1"))) })
        assert.are.equal(1, result.code, result.out)
        assert.matches("sealed/gp1", result.err, 1, true)
        assert.matches("content 2: skipped", result.out, 1, true)
        assert.matches("sdw9", result.err, 1, true)
        -- Of a host that is not reached nobody knows what is to be installed there.
        assert.is_nil(result.err:find("install", 1, true), result.err)
        assert.matches("does not name content 3: no mirror is added there", result.out, 1, true)
        local row = cluster:wait_row({ content = 0, role = "m", status = "u", mode = "s" }, SOON_S)
        assert.are.same({ new_host, "127.0.0.2", place:path("new/gp0") },
            { row.hostname, row.address, row.datadir })
        assert.matches("\nhost postgres,replication moonrise 127.0.0.2/32 scram", hba(0), 1, true)
        assert.are.equal(before, hba(1))
        assert.are.same({}, slots(1))
        for content = 1, 3 do
            assert.is_nil(mirror(content))
        end
    end)

    it("names a host that is not reached once, for however many", function()
        local result = cluster:moonrise({ "addmirrors", "--dry-run", "-i",
            place:write("far", "1|sdw9|7000|/m1\n2|sdw9|7001|/m2\n") })
        assert.are.equal(1, select(2, result.err:gsub(": the agent of host sdw9", "")), result.err)
        assert.are.equal(2, select(2, result.out:gsub(": skipped", "")), result.out)
    end)

    it("leaves a mirror that is there where it is", function()
        local row = mirror(0)
        local same = ("0|%s|%s|%s|%s\n"):format(row.hostname, row.address, row.port, row.datadir)
        assert.matches("content 0 has this mirror already", cluster:must({ "addmirrors", "-a",
            "-i", place:write("same", same) }), 1, true)
        local result = cluster:moonrise({ "addmirrors", "-a", "-i",
            place:write("other", (same:gsub("gp0", "gp00"))) })
        assert.are.equal(2, result.code)
        assert.matches("line 1 of .*: content 0 has a mirror already, .*: movemirrors moves it",
            result.err)
    end)

    it("when it is stopped takes back what is not done", function()
        local run = cluster:start({ "addmirrors", "-a", "-m", dirs, "--max-rate", "2MB" })
        cluster:wait_row({ content = 1, role = "m", status = "d" }, SOON_S)
        run:kill("TERM")
        assert.are.equal(1, run:wait(SOON_S), run:output())
        for content = 1, 3 do
            assert.is_nil(mirror(content), run:output())
            assert.are.same({}, slots(content))
        end
    end)

    it("goes elsewhere on the same port though an earlier run's mirror runs there", function()
        local function at(dir)
            return { "addmirrors", "-a", "-i", place:write("third",
                ("3|127.0.0.1|127.0.0.1|%d|%s\n"):format(port(3, 1000), place:path(dir))) }
        end
        local gate = gate_of.close(cluster, "insert on journal", "new.kind = 'mirror_up'")
        gate:kill(cluster:start(at("m1/third")))
        assert.matches("m1/third.-: that is taken back first", cluster:must(at("m2/third")))
        local row = cluster:wait_row({ content = 3, role = "m", status = "u", mode = "s" }, SOON_S)
        assert.are.same({ tostring(port(3, 1000)), place:path("m2/third") },
            { row.port, row.datadir })
        assert.is_nil(place_of.read(place:path("m1/third/PG_VERSION")))
        assert.are.equal(1, #slots(3))
    end)

    local function killed(n)
        dice:told("round " .. n, function()
            local run = cluster:start({ "addmirrors", "-a", "-s", "-m", dirs, "--max-rate", RATE })
            dice:kill(run, SPAN_S)
            run:wait(SOON_S)
        end)
    end

    -- Of the foreign servers of database shop: the ports that each lists.
    local function ports_of_servers()
        local map = {}
        for _, row in ipairs(cluster:coordinator():sql([[
            select s.srvname as name, o.option_value as ports from pg_foreign_server s,
                pg_options_to_table(s.srvoptions) o where o.option_name = 'port']],
            { dbname = "shop" })) do
            map[row.name] = row.ports
        end
        return map
    end

    -- A server that somebody has made for himself.
    local function make_server(name, content)
        cluster:coordinator():sql(("create server %s foreign data wrapper postgres_fdw "
            .. "options (host '127.0.0.1', port '%d')"):format(name, port(content, 0)),
            { dbname = "shop" })
    end

    local function assert_ours_list_both()
        local ports = ports_of_servers()
        for content = 0, 3 do
            local primary, new = cluster:primary(content), cluster:mirror(content)
            assert.are.equal(("%s,%s"):format(primary.port, new.port), ports["seg" .. content])
            if content < 2 then
                assert.are.equal(tostring(primary.port), ports["own" .. content])
            end
        end
    end

    it("is killed and run again until all are there, under writers; then one takes over", function()
        local watch = cluster:watch()
        watch:says("watching", SOON_S)
        local writers = shop.open(cluster, 2)
        -- Of one that has its mirror, and of one that gets it.
        make_server("own0", 0)
        make_server("own1", 1)
        for n = 1, ROUNDS do
            killed(n)
        end
        cluster:must({ "addmirrors", "-a", "-s", "-m", dirs })
        for content = 0, 3 do
            cluster:wait_row({ content = content, role = "m", status = "u", mode = "s" }, SOON_S)
        end
        assert.matches("every segment has its mirror",
            cluster:must({ "addmirrors", "-a", "-s", "-m", dirs }), 1, true)
        assert_ours_list_both()
        writers:progress(20, SOON_S)
        local old, new = cluster:primary(1), cluster:mirror(1)
        old:kill()
        cluster:wait_row({ dbid = new.dbid, role = "p" }, SOON_S)
        writers:progress(20, SOON_S)
        local proof = writers:prove()
        assert.is_true(proof.acknowledged > 40)
        shop.sound(proof)
        cluster:recover()
        for content = 0, 3 do
            checkup.slots(cluster:primary(content), cluster:mirror(content))
            checkup.amcheck(cluster:mirror(content))
        end
        checkup.state(cluster, 1)
    end)
end)
