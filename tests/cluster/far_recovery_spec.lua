--- Recoveries of mirrors on other hosts than their primaries, under writers with a ledger: by each
--- type, after a failover, and to hosts that the cluster did not have.

local checkup = require("tests.lib.checkup")
local compare = require("tests.lib.compare")
local far_of = require("tests.lib.far")
local json = require("dkjson")
local pinned = require("tests.lib.pinned")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

local SOON_S = wait.SOON_S
local MB, RATE_MB = 1024 * 1024, 4

describe("across hosts", function()
    local place, far, cluster, writers

    setup(function()
        place = place_of.new()
        far = far_of.new(place, { mirrors = { "sdw2", "sdw3" }, spares = { "spare" },
            rows = 60000 })
        cluster = far.cluster
        writers = cluster and pinned.open(cluster)
    end)

    teardown(place_of.close_all)

    local test = far_of.tests(getfenv(), function()
        return far
    end)

    after_each(function()
        if cluster then
            cluster:unwatch(SOON_S)
        end
    end)

    -- Where it is, in the words of its own host.
    local function line_of(mirror, host)
        return ("%s|%s|%s|/data/mirror%s"):format(host or mirror.hostname, host or mirror.address,
            mirror.port, mirror.content)
    end

    -- In sync, sound, and written to.
    local function is_well(content)
        cluster:wait_row({ content = content, role = "m", status = "u", mode = "s" }, SOON_S)
        checkup.slots(cluster:primary(content), cluster:mirror(content))
        checkup.amcheck(cluster:mirror(content))
        writers:progress(5, SOON_S)
    end

    local function recovered(...)
        local said = cluster:must({ "recoverseg", "-a", "--json", ... })
        local types = {}
        for _, one in ipairs(json.decode(said).recovered) do
            types[one.content] = one.type
        end
        return types
    end

    test("each row of a file is recovered by its type, as -o has written it", function()
        far:lose(0)
        far:lose(1)
        local written = place:path("written")
        cluster:must({ "recoverseg", "-o", written })
        local text = place_of.read(written)
        for content, letter in pairs({ [0] = "F|", "D|" }) do
            local line = line_of(cluster:mirror(content))
            assert.matches("\n" .. line .. "\n", text, 1, true)
            text = text:gsub("\n(" .. line:gsub("%p", "%%%0") .. "\n)", "\n" .. letter .. "%1")
        end
        assert.are.same({ [0] = "full", "differential" },
            recovered("-i", place:write("typed", text)))
        is_well(0)
        is_well(1)
    end)

    test("a rate below what a slow link carries is kept, and is no stall", function()
        far:lose(0)
        local link = { mbit_s = 2 * 8 * RATE_MB, delay_ms = 20 }
        local mend = far:once(far.lab:link("sdw1", "sdw2", link))
        local said = cluster:must({ "recoverseg", "-a", "-F", "--json",
            "--max-rate", RATE_MB .. "MB" })
        local one = json.decode(said).recovered[1]
        assert.is_true(one.bytes_written > 5 * RATE_MB * MB, said)
        assert.is_true(one.bytes_written / one.took_ms * 1000 < 1.2 * RATE_MB * MB, said)
        mend()
        is_well(0)
    end)

    test("the old primary of a failover is recovered from the other host, and gets its role back",
        function()
        cluster:watched()
        local old, mirror = cluster:primary(0), cluster:mirror(0)
        old:kill()
        cluster:wait_row({ dbid = mirror.dbid, role = "p" }, SOON_S)
        writers:progress(5, SOON_S)
        assert.are.same({ [0] = "differential" }, recovered("--differential"))
        is_well(0)
        assert.are.equal("sdw1", cluster:mirror(0).hostname)
        cluster:must({ "recoverseg", "-a", "-r" })
        cluster:wait_healthy(nil, true)
        assert.are.equal(old.dbid, cluster:primary(0).dbid)
        is_well(0)
    end)

    test("a host without power is replaced by one that the cluster did not have", function()
        local old = cluster:mirror(1)
        far:lose(1)
        local on = far:power_off("sdw3")
        cluster:must({ "recoverseg", "-a", "-p", "spare" })
        is_well(1)
        local mirror = cluster:mirror(1)
        assert.are.same({ "spare", old.dbid }, { mirror.hostname, mirror.dbid })
        on()
        cluster:must({ "recoverseg", "-a" })
        assert.are.same({}, cluster:catalog("select * from left_place"))
        assert.is_nil(place_of.read(old.datadir .. "/PG_VERSION"))
        assert.is_nil(place_of.read(cluster:primary(1).datadir .. "/pg_hba.conf")
            :find("sdw3", 1, true))
    end)

    test("a mirror that is up goes back by movemirrors", function()
        local mirror = cluster:mirror(1)
        local to = mirror.hostname == "spare" and "sdw3" or "spare"
        cluster:must({ "movemirrors", "-a", "-i",
            place:write("moves", line_of(mirror) .. " " .. line_of(mirror, to) .. "\n") })
        is_well(1)
        assert.are.equal(to, cluster:mirror(1).hostname)
        assert.is_nil(place_of.read(mirror.datadir .. "/PG_VERSION"))
    end)

    test("no acknowledged row is lost, and the pairs are identical", function()
        pinned.sound(cluster, writers:prove())
        for content = 0, 1 do
            assert.are.same({}, compare.pair(cluster:primary(content), cluster:mirror(content)))
            checkup.pair(cluster, content)
        end
    end)
end)
