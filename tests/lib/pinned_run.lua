--- A runbook for specs: a writer for every instance of every segment, each of which knows this one
--- instance only and writes whenever that lets it, primary or not; one ledger per content. The
--- proof tells who acknowledged each row, between when and when. It and the spec talk through files
--- in the directory DIR, as tests/lib/writers.lua says.
---
---     moonrise run pinned_run.lua DIR
local ledger = require("lib.ledger")
local mr = require("moonrise")
local writer = require("lib.writer")

local INSERT = "INSERT INTO pinned VALUES ($1::bigint)"
local PAUSE_MS, CONNECT_MS, READ_MS = 20, 2000, 60000
local NAME = "pinned"

local function client(inst, password)
    return { host = inst.address, port = inst.port, dbname = NAME, user = NAME, password = password,
        application_name = NAME, connect_timeout_ms = CONNECT_MS }
end

-- A ledger that knows when each row was begun, and who acknowledged it between when and when.
local function new_book(content)
    local book = { content = content, ledger = ledger.new(), begun = {}, acks = {}, writers = {} }
    local take = book.ledger.take
    function book.ledger.take(self)
        local id = take(self)
        book.begun[id] = mr.clock()
        return id
    end
    return book
end

local function write_to(book, inst, password)
    table.insert(book.writers, writer.start({
        conn = client(inst, password), ledger = book.ledger, sql = INSERT, sessions = 1,
        pause_ms = PAUSE_MS,
        on_ack = function(id, at)
            table.insert(book.acks, { dbid = inst.dbid, begun = book.begun[id], done = at })
        end,
    }))
end

local function open(instances, password)
    local books = {}
    for _, inst in ipairs(instances) do
        books[inst.content] = books[inst.content] or new_book(inst.content)
        write_to(books[inst.content], inst, password)
    end
    return books
end

local function acknowledged(books)
    local sum = 0
    for _, book in pairs(books) do
        sum = sum + book.ledger.counts.acknowledged
    end
    return sum
end

local function stop(books)
    for _, book in pairs(books) do
        for _, one in ipairs(book.writers) do
            one:stop()
        end
    end
end

local function present_on(primary, password)
    local conn = mr.check(mr.connect(client(primary, password)))
    local rows = mr.check(conn:query("SELECT id FROM pinned", nil, { timeout_ms = READ_MS }))
    conn:close()
    local present = {}
    for _, row in ipairs(rows) do
        present[row.id] = 1
    end
    return present
end

-- Each content's comparison, with the lists in it counted, and its acknowledgements.
local function prove(instances, books, password, counted)
    local proof = {}
    for _, inst in ipairs(instances) do
        local book = inst.role == "p" and books[inst.content]
        if book then
            local result = counted(book.ledger:compare(present_on(inst, password)))
            result.content, result.acks = inst.content, book.acks
            table.insert(proof, result)
        end
    end
    return proof
end

return {
    summary = "writers that know one instance each",
    arguments = 1,
    main = function(_, args)
        local writers_run = dofile(args[1] .. "/writers_run.lua")
        local password = mr.check(mr.read_file(args[1] .. "/password"))
        local books = open(mr.json_decode(mr.check(mr.read_file(args[1] .. "/instances"))),
            password)
        return writers_run.serve(args[1], {
            acknowledged = function()
                return acknowledged(books)
            end,
            stop = function()
                stop(books)
            end,
            prove = function(instances)
                return prove(mr.json_decode(instances), books, password, writers_run.counted)
            end,
        })
    end,
}
