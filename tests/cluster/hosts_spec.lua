--- The test hosts themselves (tests/lib/hosts.lua): what the specs across hosts rely on.

local hosts = require("tests.lib.hosts")
local needs = require("tests.lib.needs")
local pg = require("tests.lib.pg")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

local NAMES = { "cdw", "sdw1", "sdw2" }
local SOON_S = wait.SOON_S
local SMALL_KB = 8 * 1024

describe("test hosts", function()
    local place, lab, why_not

    local test = needs.of(getfenv(), function()
        return lab, why_not
    end)

    setup(function()
        place = place_of.new()
        lab, why_not = hosts.open(place, NAMES, { disks = { sdw2 = SMALL_KB .. "k" } })
    end)

    teardown(place_of.close_all)

    local function ssh(from, to, command)
        return lab[from]:run({ "ssh", "-o", "ConnectTimeout=1", "-o", "BatchMode=yes", to,
            command })
    end

    local function reaches(from, to)
        return ssh(from, to, "true").code == 0
    end

    -- Whether somebody has begun a connection to its sshd, and has not heard of it.
    local function half_open(name)
        return lab[name]:must("cat /proc/net/tcp"):find(": %x+:0016 %x+:%x+ 03 ") ~= nil
    end

    test("have names, and let each other in", function()
        for _, from in ipairs(NAMES) do
            assert.are.equal(from .. "\n", lab[from]:must("hostname"))
            for _, to in ipairs(NAMES) do
                local said = ssh(from, to, "hostname; echo $HOME")
                assert.are.equal(("%s\n%s\n"):format(to, lab.home), said.out, said.err)
            end
        end
        assert.are.equal(255, ssh("cdw", "sdw9", "true").code)
    end)

    test("see no process, no file and no port of each other's", function()
        local program = lab.sdw1:start({ "tail", "-f", "/dev/null" })
        assert.is_true(place_of.alive(program.pid))
        local inside = tonumber(lab.sdw1:must("pgrep -x tail"))
        assert.are.equal(program.pid, lab.sdw1:process(inside))
        assert.are.equal("", lab.cdw:run("pgrep -x tail").out)
        lab.sdw1:must("echo here >/data/file; echo here >~/file; echo here >/tmp/file")
        assert.are.equal("here\n", place_of.read(lab.sdw1:on_disk("/data/file")))
        assert.are.equal("", lab.cdw:run("cat /data/file ~/file /tmp/file").out)
        program:kill()
        assert.are.equal(143, program:wait(SOON_S))
    end)

    test("run PostgreSQL in the same place at the same port, and are reached there", function()
        local bin = pg.bin()
        for _, name in ipairs({ "sdw1", "cdw" }) do
            lab[name]:must(([[%s/initdb -D /data/pg -A trust -N >/dev/null &&
                echo "host all all 10.9.0.0/16 trust" >>/data/pg/pg_hba.conf &&
                %s/pg_ctl start -w -D /data/pg -l /data/log \
                    -o "-h '*' -p 6000 -k /data/pg -F"]]):format(bin, bin))
        end
        local line = bin .. "/psql -h sdw1 -p 6000 -AtX postgres -c 'select inet_server_addr()'"
        assert.are.equal(lab.sdw1.address .. "\n", lab.cdw:must(line))
        local mend = lab:cut("cdw", "sdw1", { port = 6000 })
        assert.are.equal(124, lab.cdw:run(line, { timeout_s = 2 }).code)
        assert.is_true(reaches("cdw", "sdw1"))
        mend()
        lab.cdw:must(line)
    end)

    test("are cut off from each other, both ways or one way, and only they", function()
        local mend = lab:cut("cdw", "sdw1")
        assert.is_false(reaches("cdw", "sdw1"))
        assert.is_false(reaches("sdw1", "cdw"))
        assert.is_true(reaches("cdw", "sdw2"))
        mend()
        assert.is_true(reaches("cdw", "sdw1"))
        -- What sdw1 asks arrives, and the answer is lost; what cdw asks never arrives.
        mend = lab:cut("cdw", "sdw1", { one_way = true })
        local asked = { lab.sdw1:start({ "ssh", "cdw", "true" }),
            lab.cdw:start({ "ssh", "sdw1", "true" }) }
        wait.eventually("half a connection", SOON_S, function()
            return half_open("cdw")
        end)
        assert.is_false(half_open("sdw1"))
        for _, program in ipairs(asked) do
            program:kill("KILL")
        end
        mend()
        mend = lab:isolate("sdw2")
        assert.is_false(reaches("cdw", "sdw2"))
        assert.is_false(reaches("sdw2", "sdw1"))
        assert.is_true(reaches("cdw", "sdw1"))
        mend()
        assert.is_true(reaches("sdw2", "sdw1"))
    end)

    test("are switched off at once, and come back with their disk and nothing else", function()
        local program = lab.sdw1:start({ "tail", "-f", "/dev/null" })
        local open = lab.cdw:start({ "ssh", "sdw1", "echo open; exec tail -f /dev/null" })
        open:says("open", SOON_S)
        lab.sdw1:must("echo kept >/data/kept; echo gone >/tmp/gone")
        lab.sdw1:power_off()
        assert.is_false(place_of.alive(program.pid))
        assert.is_false(reaches("cdw", "sdw1"))
        -- Nobody has told the other end. Once it is back, its system may.
        assert.is_nil(open:code())
        lab.sdw1:power_on()
        assert.are.equal("kept\n", lab.sdw1:must("cat /data/kept"))
        assert.are_not.equal(0, lab.sdw1:run("cat /tmp/gone").code)
        assert.are.equal("", lab.sdw1:run("pgrep -x postgres").out)
        assert.is_true(reaches("cdw", "sdw1"))
        open:kill("KILL")
    end)

    test("have links with a rate and a delay", function()
        local function seconds(bytes)
            local start = wait.now()
            lab.cdw:must(("ssh sdw2 head -c %d /dev/zero | wc -c"):format(bytes))
            return wait.now() - start
        end
        local before = seconds(1)
        local mend = lab:link("cdw", "sdw2", { mbit_s = 16, delay_ms = 50 })
        -- A connection by ssh needs a dozen answers, none of which comes sooner than 100 ms.
        local empty = seconds(1)
        assert.is_true(empty > before + 0.5, ("%.2f s, %.2f s before"):format(empty, before))
        local full = seconds(4e6) - empty
        assert.is_true(full > 1.5, ("4 MB at 16 Mbit/s took %.2f s"):format(full))
        mend()
        -- A machine that is busy makes it slower at times, and never quicker.
        wait.eventually("the link to be as before", SOON_S, function()
            return seconds(4e6) < empty
        end)
    end)

    test("have links that lose packets", function()
        local mend = lab:link("cdw", "sdw2", { loss = 1 })
        assert.is_false(reaches("cdw", "sdw2"))
        assert.is_true(reaches("cdw", "sdw1"))
        mend()
        mend = lab:link("cdw", "sdw2", { loss = 0.02 })
        assert.are.equal("300000\n", lab.cdw:must("ssh sdw2 head -c 300000 /dev/zero | wc -c"))
        mend()
    end)

    test("have disks that can be full", function()
        local said = lab.sdw2:run("head -c 20000000 /dev/zero >/data/ballast")
        assert.are_not.equal(0, said.code)
        assert.matches("No space left on device", said.err)
        lab.sdw2:must("rm /data/ballast && echo room >/data/room")
    end)

    test("leave nothing behind", function()
        local firsts = {}
        for _, host in ipairs(lab.hosts) do
            table.insert(firsts, host.first)
        end
        place_of.close_all()
        assert.is_nil(place_of.read(place.dir .. "/hosts/hosts"))
        for _, pid in ipairs(firsts) do
            assert.is_false(place_of.alive(pid))
        end
    end)
end)
