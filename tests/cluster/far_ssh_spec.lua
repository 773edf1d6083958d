--- Recoveries where ssh does not lead to a host, or not any more: the host is named once, with the
--- cause; what is on other hosts comes up, and nothing is touched there. And many recoveries of one
--- host at once, whose sshd drops connections as it does by default.

local checkup = require("tests.lib.checkup")
local far_of = require("tests.lib.far")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

local SOON_S = wait.SOON_S
-- By then a command has said that a host does not answer.
local ANSWER_S = 30
-- Mirrors of one host. sshd's MaxStartups is 10:30:100: more connections than 10 at once are for
-- chance to drop.
local CAMPAIGN = os.getenv("MOONRISE_CAMPAIGN")
local MANY = CAMPAIGN and 16 or 4
-- Of a content on another host.
local OTHER = MANY

describe("a recovery on a host", function()
    local place, far, cluster, lab

    setup(function()
        place = place_of.new()
        local mirrors = { [OTHER + 1] = "sdw3" }
        for i = 1, MANY do
            mirrors[i] = "sdw2"
        end
        far = far_of.new(place, { mirrors = mirrors, rows = 20000,
            disks = { sdw1 = "4g", sdw2 = "4g" } })
        cluster, lab = far.cluster, far.lab
    end)

    teardown(place_of.close_all)

    local test = far_of.tests(getfenv(), function()
        return far
    end)

    -- Another text in a file of the user's on a host, for a test.
    local function write(host, name, text)
        local path = lab[host]:path("home/.ssh/" .. name)
        local before = place_of.read(path)
        local function put(what)
            local file = assert(io.open(path, "w"))
            file:write(what)
            file:close()
        end
        put(text)
        return far:once(function()
            put(before)
        end)
    end

    -- Whom a host knows, with one host's key in another one's place.
    local function with_wrong_key(host, of)
        local text = place_of.read(lab[host]:path("home/.ssh/known_hosts"))
        return (text:gsub(of .. " [^\n]+", of .. " " .. text:match("sdw3 ([^\n]+)")))
    end

    local function end_sshd(host)
        local line = lab[host]:must("tr '\\0' ' ' </proc/$(pgrep -xo sshd)/cmdline")
        local config, log = line:match("%-f (%S+) %-E (%S+)")
        lab[host]:must("pkill -x sshd")
        return far:once(function()
            lab[host]:must({ "/usr/sbin/sshd", "-f", config, "-E", log })
        end)
    end

    local function times(text, what)
        return select(2, text:gsub(what, what))
    end

    -- It ends in time, tells of the host, recovers the other one, and the rows stay.
    local function is_told(...)
        local before, began = cluster:mirror(0), wait.now()
        local said = cluster:moonrise({ "recoverseg", "-a", "-F" })
        assert.is_true(wait.now() - began < ANSWER_S, ("%.1f s"):format(wait.now() - began))
        assert.are.equal(1, said.code, said.out .. said.err)
        for _, text in ipairs({ ... }) do
            assert.matches(text, said.err, 1, true)
        end
        local now = cluster:mirror(0)
        assert.are.same({ "d", before.mode, before.datadir, before.port },
            { now.status, now.mode, now.datadir, now.port })
        cluster:wait_row({ content = OTHER, role = "m", status = "u", mode = "s" }, SOON_S)
        return said
    end

    local function lose_one_each()
        far:lose(0)
        far:lose(OTHER)
    end

    local function comes_back()
        cluster:must({ "recoverseg", "-a" })
        checkup.pair(cluster, 0)
    end

    test("that refuses connections: it is named once; -o writes its rows as comments", function()
        far:lose(0)
        far:lose(1)
        far:lose(OTHER)
        local again = end_sshd("sdw2")
        local file = place:path("written")
        cluster:moonrise({ "recoverseg", "-o", file })
        local text = place_of.read(file)
        assert.matches("\n# ?" .. "[^\n]*sdw2|sdw2|", text)
        assert.is_nil(("\n" .. text):find("\nsdw2|", 1, true), text)
        assert.matches("\nsdw3|sdw3|", "\n" .. text)
        local said = is_told("sdw2", "refused")
        assert.are.equal(1, times(said.err, "the agent of host sdw2"), said.err)
        again()
        comes_back()
    end)

    test("that takes this user's key no more", function()
        lose_one_each()
        local again = write("sdw2", "authorized_keys", "")
        is_told("sdw2", "none of this user's keys is accepted there")
        again()
        comes_back()
    end)

    test("that shows another key: its fingerprint is told, and what to run", function()
        lose_one_each()
        local again = write("cdw", "known_hosts", with_wrong_key("cdw", "sdw2"))
        is_told("sdw2", "the host's key is not the one on record", "SHA256:", "ssh-keygen")
        again()
        comes_back()
    end)

    test("that sees another key of its source's host", function()
        lose_one_each()
        local again = write("sdw2", "known_hosts", with_wrong_key("sdw2", "sdw1"))
        cluster:must({ "recoverseg", "-a", "--dry-run" })
        is_told("dbid " .. cluster:mirror(0).dbid, "sdw1",
            "the host's key is not the one on record", "SHA256:")
        again()
        comes_back()
    end)

    test("that accepts and never answers: every command says so in time", function()
        lose_one_each()
        local thaw = far:once(lab.sdw2:freeze_sshd())
        is_told("sdw2", "sdw2: it has not answered within")
        for _, words in ipairs(CAMPAIGN and { { "state", "-e" }, { "watch", "--once" } } or {}) do
            local began = wait.now()
            local said = cluster:moonrise(words)
            assert.is_true(wait.now() - began < ANSWER_S,
                ("%s took %.1f s"):format(words[1], wait.now() - began))
            assert.matches("sdw2", said.out .. said.err)
        end
        thaw()
        comes_back()
    end)

    test("with many others: all come up in one run, though their sshd drops connections", function()
        for content = 0, MANY - 1 do
            far:lose(content)
        end
        local function accepted(name)
            return times(place_of.read(lab[name]:path("sshd.log")), "Accepted publickey")
        end
        local there, source = accepted("sdw2"), accepted("sdw1")
        cluster:must({ "recoverseg", "-a", "-F" }, { timeout_s = 300 })
        for content = 0, MANY - 1 do
            cluster:wait_row({ content = content, role = "m", status = "u", mode = "s" }, SOON_S)
        end
        -- One agent for all of a host's instances; a feeder for each stream, and what asks.
        assert.are.equal(1, accepted("sdw2") - there)
        source = accepted("sdw1") - source
        assert.is_true(source <= 1 + 5 * MANY, source .. " connections")
        checkup.pair(cluster, 0)
        checkup.pair(cluster, MANY - 1)
    end)
end)
