--- addmirrors over hosts: primaries on three of them get mirrors on the others, while they are
--- written to; a host that loses its power in the middle costs only its own.

local checkup = require("tests.lib.checkup")
local compare = require("tests.lib.compare")
local hosts_cluster = require("tests.lib.hosts_cluster")
local needs = require("tests.lib.needs")
local pinned = require("tests.lib.pinned")
local place_of = require("tests.lib.place")
local undone_of = require("tests.lib.undone")
local wait = require("tests.lib.wait")

local SOON_S = wait.SOON_S
-- What a command takes to notice that a host is silent.
local NOTICED_S = 60
local NAMES = { "cdw", "sdw1", "sdw2", "sdw3" }
local PLACES = { coordinator = "cdw", primary0 = "sdw1", primary1 = "sdw2", primary2 = "sdw3" }
local CONTENTS = #NAMES - 1
local GROUP = { "sdw2", "sdw3", "sdw1" }
-- Bytes that do not compress, and a rate that makes a copy of them last some seconds.
local DATA = [[
create extension amcheck;
create table big as select i, sha512(i::text::bytea) as b from generate_series(1, 60000) i;
create index on big (i)]]
local RATE = "8MB"

describe("addmirrors over hosts", function()
    local place, lab, cluster, writers, dirs, why_not
    local undone = undone_of.new()

    local test = needs.of(getfenv(), function()
        return lab, why_not
    end)

    setup(function()
        place = place_of.new()
        lab, cluster, why_not = hosts_cluster(place, NAMES, { hosts = PLACES, segments = CONTENTS,
            mirrors = false, hba = { "host pinned pinned 10.9.0.0/16 scram-sha-256" },
            settings = { autovacuum = "off", wal_receiver_timeout = "4s",
                wal_sender_timeout = "4s" } })
        if not lab then
            return
        end
        cluster:init()
        for content = 0, CONTENTS - 1 do
            cluster:primary(content):sql(DATA)
        end
        writers = pinned.open(cluster)
        dirs = place:write("dirs", "/data/mirrors\n")
    end)

    teardown(place_of.close_all)

    after_each(function()
        undone:all()
    end)

    -- The host of each content's mirror; false: it has none.
    local function mirrors()
        local found = {}
        for content = 1, CONTENTS do
            found[content] = false
        end
        for _, row in ipairs(cluster:rows()) do
            if row.role == "m" and row.content ~= "-1" then
                found[row.content + 1] = row.hostname
            end
        end
        return found
    end

    local function copied(host, content)
        local text = place_of.read(lab[host]:on_disk(
            ("/data/mirrors/gp%d/moonrise.progress"):format(content))) or ""
        return tonumber(text:match("bytes_done%D+(%d+)")) or 0
    end

    test("spread needs more hosts than a host has primaries: three have enough", function()
        local file = place:path("spread")
        cluster:must({ "addmirrors", "-s", "-m", dirs, "-o", file })
        local taken = {}
        for content, host in place_of.read(file):gmatch("\n(%d+)|(sdw%d)|") do
            assert.are_not.equal(cluster:primary(tonumber(content)).hostname, host)
            taken[host] = (taken[host] or 0) + 1
        end
        assert.are.same({ sdw1 = 1, sdw2 = 1, sdw3 = 1 }, taken)
        assert.are.same({ false, false, false }, mirrors())
    end)

    test("one whose host loses its power has no mirror; the others have theirs", function()
        local run = cluster:start({ "addmirrors", "-a", "-m", dirs, "--max-rate", RATE })
        undone:once(function()
            if not run:code() then
                run:kill("KILL")
            end
        end)
        wait.eventually("content 1 to be copied", SOON_S, function()
            assert(not run:code(), run:output())
            return copied("sdw3", 1) > 500000
        end)
        lab.sdw3:power_off()
        local on = undone:once(function()
            lab.sdw3:power_on()
        end)
        assert.are.equal(1, run:wait(NOTICED_S), run:output())
        assert.matches("sdw3", run:output(), 1, true)
        -- The primary of content 2 was on it as well: nobody can let its mirror go.
        assert.matches("content 1: no mirror was added", run:output(), 1, true)
        assert.matches("run addmirrors again", run:output(), 1, true)
        assert.are.same({ "sdw2", false, "sdw1" }, mirrors())
        assert.are.same({ "d", "n" }, { cluster:mirror(2).status, cluster:mirror(2).mode })
        cluster:wait_row({ content = 0, role = "m", status = "u", mode = "s" }, SOON_S)
        on()
    end)

    test("a rerun goes on with what is half done, and the pairs are sound", function()
        assert.matches("is not whole", cluster:moonrise({ "start", "-a" }).err, 1, true)
        cluster:must({ "addmirrors", "-a", "-m", dirs })
        assert.are.same(GROUP, mirrors())
        cluster:wait_healthy(nil, true)
        writers:progress(5, SOON_S)
        pinned.sound(cluster, writers:prove())
        for content = 0, CONTENTS - 1 do
            assert.are.same({}, compare.pair(cluster:primary(content), cluster:mirror(content)))
            checkup.pair(cluster, content)
        end
    end)

    test("the primary of one of them fails over to its new mirror", function()
        cluster:watched()
        local mirror = cluster:mirror(0)
        local rows = cluster:primary(0):value("(select count(*) from big)")
        cluster:primary(0):kill()
        cluster:wait_row({ dbid = mirror.dbid, role = "p", status = "u" }, SOON_S)
        cluster:primary(0):sql("insert into big values (0, '')")
        assert.are.equal(tostring(rows + 1), cluster:primary(0):value("(select count(*) from big)"))
        cluster:unwatch(SOON_S)
    end)
end)
