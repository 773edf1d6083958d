--- moonrise deploy, to hosts that have a home of their own.
local mr = require("moonrise")

local place_of = require("tests.lib.place")
local sshd = require("tests.lib.sshd")

local reason = sshd.missing()
local test = reason and function(name)
    pending(name .. ": " .. reason)
end or it

describe("moonrise deploy", function()
    local place
    local installed = "/.local/lib/moonrise/" .. mr.version

    setup(function()
        if not reason then
            place = place_of.new()
        end
    end)

    teardown(place_of.close_all)

    local function host(name, env)
        place:must({ "mkdir", "-p", name })
        env = env or {}
        env.HOME = place:path(name)
        return sshd.start(place, name, { env = env })
    end

    local function deploy(...)
        return place:run({ place_of.moonrise(), "deploy", ... })
    end

    local function builds(name)
        local names = {}
        for build in place:must({ "ls", "-A", name .. "/.local/lib/moonrise" }):gmatch("%S+") do
            names[#names + 1] = build
        end
        table.sort(names)
        return names
    end

    test("installs this moonrise, and an agent is then started from there", function()
        host("sdw1")
        local result = deploy("--dry-run", "sdw1")
        assert.equals(0, result.code, result.err)
        assert.matches("sdw1: moonrise .* will be installed in ~/.local", result.out)
        assert.is_not.equals(0, place:run({ "ls", "sdw1/.local" }).code)
        local told = mr.json_decode(deploy("--dry-run", "--json", "sdw1").out)
        assert.is_false(told.hosts[1].done)
        result = deploy("-a", "sdw1")
        assert.equals(0, result.code, result.out .. result.err)
        assert.matches("sdw1: installed, and it runs", result.out)
        assert.equals("moonrise " .. mr.version .. "\n",
            place:must({ "sdw1/.local/bin/moonrise", "--version" }))
        assert.matches("moonrise state",
            place:must({ "sdw1/.local/bin/moonrise", "state", "--help" }))
        mr.main(function()
            local agent = mr.check(mr.agent({ host = "sdw1" }))
            local pid = mr.check(agent:call("hello")).pid
            assert.matches(place:path("sdw1" .. installed), mr.check(mr.run({ "readlink",
                "/proc/" .. pid .. "/exe" })).stdout, 1, true)
        end)
    end)

    test("leaves what is there already, and keeps one build before", function()
        local before = builds("sdw1")
        local result = deploy("-a", "sdw1")
        assert.equals(0, result.code)
        assert.matches("is there already", result.out)
        assert.is_true(mr.json_decode(deploy("--dry-run", "--json", "sdw1").out).hosts[1].done)
        assert.same(before, builds("sdw1"))
        local version = mr.version
        place:must({ "sh", "-c", ("cd sdw1/.local/lib/moonrise && mkdir %s-old %s-older && " ..
            "ln -sfn %s-old %s"):format(version, version, version, version) })
        assert.matches("another build", deploy("-a", "sdw1").out)
        before[#before + 1] = version .. "-old"
        assert.same(before, builds("sdw1"))
    end)

    test("goes on with the others where one host fails", function()
        host("sdw2")
        host("sdw3"):stop()
        place:must({ "mkdir", "-p", "sdw2/.local" })
        local result = deploy("-a", "--json", "sdw3", "sdw2")
        assert.equals(1, result.code)
        local told = mr.json_decode(result.out)
        assert.same({ "sdw3", "sdw2", mr.whoami().hostname },
            { told.hosts[1].host, told.hosts[2].host, told.hosts[3].host })
        assert.matches("Connection refused", told.hosts[1].error)
        assert.is_true(told.hosts[2].done)
        assert.equals(0, place:run({ "sdw2" .. installed .. "/bin/moonrise", "--version" }).code)
    end)

    test("changes nothing where it cannot be written", function()
        host("sdw4")
        place:must({ "chmod", "500", "sdw4" })
        local result = deploy("-a", "sdw4")
        place:must({ "chmod", "700", "sdw4" })
        assert.equals(1, result.code)
        assert.matches("ssh to sdw4 .*Permission denied", result.err)
    end)

    -- To a host where a program does what this script does: nothing is installed. What was said.
    local function fails_with(name, program, script)
        host(name, { PATH = place:path(name) .. ":/usr/bin:/bin" })
        place:write(name .. "/" .. program, "#!/bin/sh\n" .. script)
        place:must({ "chmod", "755", name .. "/" .. program })
        local result = deploy("-a", name)
        assert.equals(1, result.code)
        assert.same({}, builds(name))
        return result.err
    end

    test("names the packages of libraries that are missing there", function()
        local said = fails_with("sdw5", "ldd", "printf '\\tlibuv.so.1 => not found\\n'\n")
        assert.matches("sdw5 lacks shared libraries: libuv.so.1", said, 1, true)
        assert.matches("apt-get install libuv1", said, 1, true)
    end)

    test("leads to nothing that has not run", function()
        -- What arrives is not what was sent.
        local said = fails_with("sdw6", "sha256sum", "head -c 1 >/dev/null; echo 00 -\n")
        assert.matches("sdw6: the archive arrived damaged", said, 1, true)
    end)

    test("installs it here, too, where agents of other hosts look for it", function()
        assert.equals("moonrise " .. mr.version .. "\n",
            place:must({ "home" .. installed .. "/bin/moonrise", "--version" }))
        place:must({ "rm", "-r", "home/.local" })
        assert.matches("localhost: installed, and it runs", deploy("-a", "localhost").out, 1, true)
        assert.same(builds("sdw1")[1], builds("home")[1])
    end)

    test("asks for hosts", function()
        assert.equals(2, deploy().code)
    end)
end)
