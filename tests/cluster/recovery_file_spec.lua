--- recoverseg -i, -o and -p on real servers.

local checkup = require("tests.lib.checkup")
local cluster_of = require("tests.lib.cluster")
local json = require("dkjson")
local losing = require("tests.lib.losing")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

local SETTINGS = { autovacuum = "off" }

describe("a recovery file:", function()
    local place, cluster

    setup(function()
        place = place_of.new()
        cluster = cluster_of.new(place, { segments = 3, settings = SETTINGS })
        cluster:init()
        for content = 0, 2 do
            cluster:primary(content):sql("create extension amcheck; create table t as " ..
                "select i, repeat(md5(i::text), 8) from generate_series(1, 5000) i")
        end
    end)

    teardown(place_of.close_all)

    before_each(function()
        cluster:mend()
    end)

    local function lose(...)
        for _, content in ipairs({ ... }) do
            losing.of(cluster, content)
        end
    end

    local function line_of(server)
        return ("%s|%s|%s|%s"):format(server.hostname, server.address, server.port, server.datadir)
    end

    local function told(...)
        return json.decode(cluster:must({ "recoverseg", "-a", "--json", ... }))
    end

    local function by_dbid(list)
        local map = {}
        for _, one in ipairs(list) do
            map[one.dbid] = one
        end
        return map
    end

    it("of all types at once, one of them to another place; what it does not name stays",
        function()
        lose(0, 1, 2)
        local mirrors = {}
        for content = 0, 2 do
            mirrors[content] = cluster:mirror(content)
        end
        local port = place_of.free_port()
        local file = place:write("mixed", table.concat({ "# three", "I|" .. line_of(mirrors[0]),
            line_of(mirrors[1]) .. (" localhost|127.0.0.1|%d|%s"):format(port, place:path("m1")) },
            "\n") .. "\n")
        assert.matches("that is its primary's host: losing the host loses both",
            cluster:must({ "recoverseg", "--dry-run", "-i", file }), 1, true)
        local done = by_dbid(told("-i", file).recovered)
        local moved = done[tonumber(mirrors[1].dbid)]
        assert.are.equal("full", moved.type)
        assert.are.same({ hostname = "localhost", address = "127.0.0.1", port = port,
            datadir = place:path("m1") }, moved.to)
        assert.are.equal("differential", done[tonumber(mirrors[0].dbid)].type)
        assert.matches("incremental was asked for", done[tonumber(mirrors[0].dbid)].reason)
        assert.is_nil(done[tonumber(mirrors[2].dbid)])
        assert.are.equal("d", cluster:mirror(2).status)
        file = place:write("last", "F|" .. line_of(mirrors[2]) .. "\n")
        assert.are.equal("full", told("-i", file, "--differential").recovered[1].type)
        for content = 0, 2 do
            checkup.pair(cluster, content)
        end
    end)

    it("that fails for one of them brings the others up", function()
        lose(0, 1)
        local first, second = cluster:mirror(0), cluster:mirror(1)
        local bad = place:path("not_empty")
        place:must({ "mkdir", "-p", bad .. "/x" })
        local file = place:write("bad", ("%s localhost|127.0.0.1|%d|%s\n%s\n"):format(
            line_of(first), place_of.free_port(), bad, line_of(second)))
        local result = cluster:moonrise({ "recoverseg", "-a", "-i", file })
        assert.are.equal(1, result.code)
        assert.matches("its new directory is not empty", result.err)
        cluster:wait_row({ dbid = second.dbid, status = "u", mode = "s" }, wait.SOON_S)
        assert.are.same({ "d", first.datadir, first.port }, { cluster:mirror(0).status,
            cluster:mirror(0).datadir, cluster:mirror(0).port })
    end)

    it("with mistakes ends with 2, tells each with its line, and touches nothing", function()
        lose(0)
        local rows = cluster:rows()
        local file = place:write("wrong", ("#\nX|%s\nnowhere|1|/x\n"):format(
            line_of(cluster:mirror(0))))
        local result = cluster:moonrise({ "recoverseg", "-a", "-i", file })
        assert.are.equal(2, result.code)
        assert.matches(file .. ", line 2: there is no type 'X'", result.err, 1, true)
        assert.matches(file .. ", line 3: the cluster has no host 'nowhere'", result.err, 1, true)
        assert.are.equal(2, cluster:moonrise({ "recoverseg", "-a", "-i", "/nowhere" }).code)
        assert.are.same(rows, cluster:rows())
        file = place:write("empty", "# nothing\n\n")
        assert.matches("No segments to recover", cluster:must({ "recoverseg", "-a", "-i", file }))
        assert.are.same(rows, cluster:rows())
    end)

    it("that -o writes is what -i reads", function()
        lose(0, 2)
        local file, rows = place:path("written"), cluster:rows()
        cluster:must({ "recoverseg", "-o", file })
        assert.are.same(rows, cluster:rows())
        local text = place_of.read(file)
        assert.matches(line_of(cluster:mirror(0)) .. "\n", text, 1, true)
        local again = cluster:moonrise({ "recoverseg", "-o", file })
        assert.matches("was there, and is replaced", again.out)
        assert.are.equal(text, place_of.read(file))
        assert.are.equal(2, #told("-i", file).recovered)
        checkup.pair(cluster, 0)
        checkup.pair(cluster, 2)
        assert.matches("No segments to recover", cluster:must({ "recoverseg", "-a", "-i", file }))
        cluster:must({ "recoverseg", "-o", file })
        assert.are.same({}, told("-i", file).recovered)
    end)

    it("for spare hosts: -p writes it, or runs it", function()
        lose(0, 1)
        local old = cluster:mirror(0)
        local file = place:path("spares")
        cluster:must({ "recoverseg", "-o", file, "-p", "::1" })
        assert.matches(line_of(old) .. " ::1|::1|" .. old.port .. "|" .. old.datadir .. "\n",
            place_of.read(file), 1, true)
        -- The old host is this one, too: only what it has lost is not in the new place's way.
        local rows = cluster:rows()
        local result = cluster:moonrise({ "recoverseg", "-a", "-p", "::1" })
        assert.are.equal(1, result.code)
        assert.matches("its new directory is its old one", result.err, 1, true)
        assert.are.same(rows, cluster:rows())
        for content = 0, 1 do
            place:must({ "rm", "-rf", cluster:mirror(content).datadir })
        end
        cluster:must({ "recoverseg", "-a", "-p", "::1" })
        for content = 0, 1 do
            checkup.pair(cluster, content)
            assert.are.equal("::1", cluster:mirror(content).hostname)
        end
        assert.are.same({}, cluster:catalog("select * from left_place"))
        -- What an earlier run has brought there is recovered there.
        rows = cluster:rows()
        assert.matches("No segments", cluster:must({ "recoverseg", "-a", "-p", "::1" }), 1, true)
        lose(0)
        assert.are.equal(1, #told("-p", "::1").recovered)
        checkup.pair(cluster, 0)
        assert.are.same(rows, cluster:rows())
    end)

    it("takes no host for a spare one because somebody was there once", function()
        lose(2)
        local dbids = {}
        for content = 0, 2 do
            dbids[content] = cluster:mirror(content).dbid
        end
        -- Who was brought to ::1 from the failed host has been away since, or has come back.
        for _, one in ipairs({ { dbids[0], "sdw0", "::1" }, { dbids[1], "sdw0", "::1" },
            { dbids[2], "localhost", "::1" }, { dbids[2], "::1", "localhost" } }) do
            cluster:catalog(([[insert into journal (kind, dbid, text, data) values ('move', %s,
                'spec', '{"from": {"hostname": "%s"}, "to": {"hostname": "%s"}}')]]):format(
                unpack(one)))
        end
        local result = cluster:moonrise({ "recoverseg", "-a", "-p", "::1" })
        assert.are.equal(2, result.code, result.out .. result.err)
        assert.matches("host ::1 belongs to the cluster", result.err, 1, true)
    end)

    it("needs as many spare hosts as there are failed ones, none of them a host already",
        function()
        -- One of them is on ::1 since it was recovered to a spare host.
        lose(0, 2)
        local rows = cluster:rows()
        for args, words in pairs({ ["localhost"] = "belongs to the cluster",
            ["127.0.0.1"] = "2 hosts have failed instances (::1, localhost), and 1 spare",
            ["127.0.0.1,127.0.0.1"] = "named twice", ["127.0.0.1,"] = "hosts with commas" }) do
            local result = cluster:moonrise({ "recoverseg", "-a", "-p", args })
            assert.are.equal(2, result.code, result.err)
            assert.matches(words, result.err, 1, true)
        end
        assert.are.same(rows, cluster:rows())
    end)

    it("goes on without a spare host that is not reached, which is named once", function()
        -- Two are on ::1, whose spare host it is.
        lose(0, 1, 2)
        local file = place:path("some")
        place:must({ "rm", "-rf", cluster:mirror(2).datadir })
        local function skips(...)
            local result = cluster:moonrise({ "recoverseg", "-a", "-p",
                "nowhere.invalid,127.0.0.1", ... })
            assert.are.equal(1, result.code, result.out .. result.err)
            assert.are.equal(1, select(2, result.err:gsub("spare host nowhere.invalid", "")),
                result.err)
            assert.are.equal(2, select(2, result.out:gsub(": skipped", "")), result.out)
        end
        skips("-o", file)
        local text = place_of.read(file)
        assert.matches("\n# " .. line_of(cluster:mirror(0)) .. "\n", text, 1, true)
        assert.matches("\n" .. line_of(cluster:mirror(2)) .. " 127.0.0.1|", text, 1, true)
        skips()
        cluster:wait_row({ content = 2, role = "m", hostname = "127.0.0.1", status = "u",
            mode = "s" }, 20)
        for content = 0, 1 do
            assert.are.same({ "::1", "d" }, { cluster:mirror(content).hostname,
                cluster:mirror(content).status })
        end
    end)

    it("leaves what lies on a host that does not answer on record, and says so", function()
        cluster:catalog([[insert into left_place values (3, 0, 7000, 'away.invalid',
            'away.invalid', '/data/mirror0')]])
        local text = cluster:moonrise({ "state", "-e" }).out
        assert.matches("Directories Left behind", text, 1, true)
        assert.matches("away.invalid +7000 +3 +/data/mirror0", text)
        local out = cluster:must({ "recoverseg", "-a" })
        assert.matches("Left since .* by dbid 3: away.invalid:7000:/data/mirror0", out)
        assert.matches("which it has left: .*away.invalid", out)
        assert.are.equal(1, #cluster:catalog("select * from left_place"))
        cluster:catalog("delete from left_place")
    end)

    it("does not go with what contradicts it", function()
        for _, args in ipairs({ { "-i", "/x", "-p", "::1" }, { "-i", "/x", "-r" },
            { "-p", "::1", "-r" }, { "-o", "/x", "--differential" },
            { "-p", "::1", "--differential" }, { "-r", "--differential" }, { "-o", "/x", "-r" },
            { "-o", "/x", "-i", "/y" }, { "-o", "/x", "--max-rate", "1MB" },
            { "--promote", "3", "-i", "/x" }, { "-F", "--differential", "-i", "/x" } }) do
            assert.are.equal(2, cluster:moonrise({ "recoverseg", "-a", unpack(args) }).code,
                table.concat(args, " "))
        end
    end)
end)
