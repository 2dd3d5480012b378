class Admin:
    def __init__(s,*a): pass
    async def serve(s,ex): ex.answer(200,[],b"ok")
